"""The option table of a recipe, read off its signature; nothing here loads torch.

A recipe is one pure function on tensors. Its keyword-only parameters are its options: the name
(a trailing underscore is for Python alone: ``lambda_`` is the option ``lambda``), the default, and
by the annotation the kind of value and its bounds::

    def halfway(
        tensors: Annotated[Sequence[Tensor], Within(2, 2)],   # how many networks it takes
        *,
        base: Tensor,                                          # it needs a base model
        weight: PerNetwork = 1.0,                              # one number for each network
        strength: Annotated[float, Within(0, 1)] = 0.5,
    ) -> Tensor: ...

Two parameters are no options: ``base`` is the tensor of the base model (with the default None it is
optional, without the parameter it is refused), and ``generators`` has one source of random numbers
for each network, which brings the option ``seed``.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from mergekit_perm.errors import MergeError

Kind = Literal["number", "whole", "flag"]
Base = Literal["refused", "optional", "required"]

_KINDS: Mapping[Any, Kind] = {float: "number", int: "whole", bool: "flag"}
_GIVEN = ("base", "generators")


@dataclass(frozen=True, slots=True)
class Within:
    """Bounds of an option, or of the number of networks; both may be reached."""

    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True, slots=True)
class _Each:
    """Marks an option that has one value for each network."""


@dataclass(frozen=True, slots=True)
class AsStored:
    """Marks tensors that a recipe takes in their own dtype, and takes sums of in a wider one.

    Without it, a recipe is given all tensors in float64.
    """


PerNetwork = Annotated[float | Sequence[float], _Each()]
"""One number for each network; a single one stands for all."""

Share = Annotated[float | Sequence[float], _Each(), Within(0, 1)]
"""One number from 0 to 1 for each network."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a recipe.

    Attributes:
        kind: a number, a whole number, or true or false.
        default: None where the option has to be given.
        each: it has one value for each network.
        least, most: its bounds.
    """

    kind: Kind
    default: float | None
    each: bool = False
    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True, slots=True)
class Table:
    """What a recipe takes.

    Attributes:
        options: by name, in the order of the signature.
        base: whether it needs a base model.
        fewest, most: networks, without the base model.
        random: it takes `generators`, so that its option ``seed`` is no parameter of its own.
    """

    options: Mapping[str, Option]
    base: Base = "refused"
    fewest: float = 1
    most: float = math.inf
    random: bool = False


SEED = Option("whole", 0, least=0, most=2**63 - 1)
"""The option that `generators` bring."""


def table_of(function: Callable[..., Any]) -> Table:
    """Return the option table of the recipe `function`.

    Raises:
        MergeError: a signature that is none of a recipe.
    """
    first, *rest = inspect.signature(function, eval_str=True).parameters.values()
    options: dict[str, Option] = {}
    for parameter in rest:
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise MergeError(
                f"recipe '{function.__name__}': '{parameter.name}' has to be keyword-only"
            )
        if parameter.name not in _GIVEN:
            options[parameter.name.removesuffix("_")] = _option(function, parameter)
    given = {parameter.name: parameter for parameter in rest}
    if "generators" in given:
        options["seed"] = SEED
    networks = _bounds(first.annotation, Within(1))
    return Table(
        options,
        base=_base(given.get("base")),
        fewest=networks.least,
        most=networks.most,
        random="generators" in given,
    )


def takes_stored(function: Callable[..., Any]) -> bool:
    """Tell whether the recipe `function` takes tensors in their own dtype (see `AsStored`)."""
    first = next(iter(inspect.signature(function, eval_str=True).parameters.values()))
    return any(isinstance(one, AsStored) for one in _metadata(first.annotation))


_WITHOUT_EFFECT = {
    "int8_mask": "masks are not kept, so that their size changes nothing",
    "density": "task arithmetic drops nothing; mergekit takes this and does nothing with it",
    "rescale": "task arithmetic drops nothing; mergekit takes this and does nothing with it",
}


def without_effect(method: str, parameter: str) -> str | None:
    """Return why a parameter that mergekit takes is none here; None if there is no such reason."""
    if parameter != "int8_mask" and method != "task_arithmetic":
        return None
    reason = _WITHOUT_EFFECT.get(parameter)
    return reason and f"{reason}: remove it"


def keyword(option: str, function: Callable[..., Any]) -> str:
    """Return the name of the parameter of `function` that is the option called `option`."""
    parameters = inspect.signature(function).parameters
    return option if option in parameters else f"{option}_"


def each(value: float | Sequence[float], count: int) -> list[float]:
    """Return the values of an option for `count` networks, of which a single one stands for all.

    Raises:
        MergeError: not as many values as networks.
    """
    if isinstance(value, int | float):
        return [float(value)] * count
    if len(value) != count:
        raise MergeError(f"found {len(value)} values of an option for {count} networks")
    return [float(one) for one in value]


def _base(parameter: inspect.Parameter | None) -> Base:
    if parameter is None:
        return "refused"
    return "required" if parameter.default is inspect.Parameter.empty else "optional"


def _option(function: Callable[..., Any], parameter: inspect.Parameter) -> Option:
    metadata = _metadata(parameter.annotation)
    core = parameter.annotation if not metadata else typing.get_args(parameter.annotation)[0]
    for_each = any(isinstance(one, _Each) for one in metadata)
    kind: Kind | None = "number" if for_each else _KINDS.get(core)
    if kind is None:
        raise MergeError(
            f"recipe '{function.__name__}': the option '{parameter.name}' has to be annotated as "
            "float, int, bool or PerNetwork"
        )
    default = None if parameter.default is inspect.Parameter.empty else parameter.default
    bounds = _bounds(parameter.annotation, Within())
    return Option(kind, default, for_each, bounds.least, bounds.most)


def _bounds(annotation: Any, otherwise: Within) -> Within:
    found = [one for one in _metadata(annotation) if isinstance(one, Within)]
    return found[-1] if found else otherwise


def _metadata(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__metadata__", ())
