"""How networks are aligned: one section of the run spec, with the options of its method in it.

Every method has a model with its own options, so that `align` is checked against exactly those. The
models repeat the signatures of the solvers in `align`, because checking a spec must not load torch;
a test holds them together.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from mergekit_perm.errors import suggest
from mergekit_perm.spec.fields import (
    AlignmentMethod,
    AtLeastTwo,
    Count,
    NonNegative,
    OneOrMoreSteps,
    Seed,
    Size,
    Text,
)
from mergekit_perm.spec.models import Section

JOINT = "joint"
"""The reference that is no network: all are aligned to each other at once."""

Looks = Literal["weights", "inputs", "labels"]

Positive = Annotated[float, Field(gt=0)]


class AlignSpec(Section):
    """How networks are aligned; its subclasses add the options of their method.

    Attributes:
        reference: the network that the others are aligned to, or ``joint``.
        method: the solver.
        permutations: ``auto``, or a file with a permutation spec, as written; see `RunSpec.path`.
        at: the checkpoint of sequences at which permutations are found; several are stacked.
        apply_to: permute each network as it is in the end, or its whole ``sequence``.
    """

    reference: Text = JOINT
    method: AlignmentMethod = "weight_matching"
    permutations: Text = "auto"
    at: OneOrMoreSteps = "end"
    apply_to: Literal["network", "sequence"] = "network"

    @property
    def options(self) -> dict[str, Any]:
        """The options of the method, as the solver takes them."""
        return {name: value for name, value in self if name not in AlignSpec.model_fields}

    @property
    def looks_at(self) -> Looks:
        """What the method looks at where there is data; "labels" are inputs as well."""
        return "weights"

    @property
    def needs_data(self) -> bool:
        """Whether the method cannot do without data."""
        return self.looks_at != "weights"


class WeightMatching(AlignSpec):
    """Options of `weight_matching`."""

    seed: Seed = 0
    restarts: Count = 1
    cooling: Size = 20
    order: Literal["random", "forward"] = "random"
    tolerance: NonNegative | None = None
    max_sweeps: Size = 100
    max_seconds: Positive | None = None


class MergeMany(AlignSpec):
    """Options of `merge_many`."""

    method: AlignmentMethod = "merge_many"
    seed: Seed = 0
    restarts: Count = 2
    tolerance: NonNegative = 1e-9
    max_sweeps: Size = 100
    max_seconds: Positive | None = None


class ActivationMatching(AlignSpec):
    """Options of `activation_matching`."""

    method: AlignmentMethod = "activation_matching"
    kernel: Literal["correlation", "covariance", "inner_product"] = "correlation"
    count: AtLeastTwo = 5000
    batch_size: Count = 256
    rows: AtLeastTwo = 4096
    seed: Seed = 0
    restarts: Count = 1
    cooling: Size = 10
    max_sweeps: Size = 100
    max_seconds: Positive | None = None

    @property
    def looks_at(self) -> Looks:
        """Activations need inputs, and no labels."""
        return "inputs"


class Mixed(AlignSpec):
    """Options of `mixed`."""

    method: AlignmentMethod = "mixed"
    seed: Seed = 0
    restarts: Count = 2
    steps: Size = 100
    strength: NonNegative = 1.0
    exchanges: Size = 500
    ratio: NonNegative = 1.0
    count: AtLeastTwo = 2048
    batch_size: Count = 256
    rows: AtLeastTwo = 2048
    max_sweeps: Size = 100
    max_seconds: Positive | None = None

    @property
    def looks_at(self) -> Looks:
        """The loss of mixtures needs labels."""
        return "labels"

    @property
    def needs_data(self) -> bool:
        """Without data it looks at weights alone."""
        return False


class FrankWolfe(AlignSpec):
    """Options of `frank_wolfe`."""

    method: AlignmentMethod = "frank_wolfe"
    seed: Seed = 0
    start: Literal["identity", "random"] = "identity"
    max_iterations: Size = 200
    tolerance: NonNegative = 1e-6
    patience: Count = 5
    max_seconds: Positive | None = None


class Sinkhorn(AlignSpec):
    """Options of `sinkhorn`."""

    method: AlignmentMethod = "sinkhorn"
    seed: Seed = 0
    steps: Size = 200
    learning_rate: Positive = 0.1
    temperature: Positive = 1.0
    iterations: Count = 20
    objective: Literal["distance", "midpoint", "random_point"] = "distance"
    batch_size: Count = 256
    max_seconds: Positive | None = None

    @property
    def looks_at(self) -> Looks:
        """The loss of a mixture needs labels, the distance of the weights nothing."""
        return "weights" if self.objective == "distance" else "labels"


class StraightThrough(AlignSpec):
    """Options of `straight_through`."""

    method: AlignmentMethod = "straight_through"
    seed: Seed = 0
    steps: Size = 200
    batch_size: Count = 256
    learning_rate: Positive = 1e-2
    mixtures: Literal["random", "equal"] = "random"
    count: AtLeastTwo = 1024
    max_seconds: Positive | None = None

    @property
    def looks_at(self) -> Looks:
        """The loss of mixtures needs labels."""
        return "labels"


class UnknownMethod(AlignSpec, extra="ignore"):
    """Where the method is none that is known, nobody can say what its options would be."""


ALIGNMENTS: Mapping[str, type[AlignSpec]] = MappingProxyType(
    {
        "weight_matching": WeightMatching,
        "merge_many": MergeMany,
        "activation_matching": ActivationMatching,
        "mixed": Mixed,
        "frank_wolfe": FrankWolfe,
        "sinkhorn": Sinkhorn,
        "straight_through": StraightThrough,
    }
)
"""The model of every method."""


def options_of(method: str) -> list[str]:
    """Return the names of the options of `method`."""
    return [name for name in ALIGNMENTS[method].model_fields if name not in AlignSpec.model_fields]


def methods_with(option: str) -> list[str]:
    """Return the methods that have `option`."""
    return [method for method in ALIGNMENTS if option in options_of(method)]


def default_method(align: Mapping[str, Any], *, has_data: bool) -> str:
    """Return what a missing `method` means: the best that what is given allows.

    Args:
        align: the section as it was written.
        has_data: whether the spec has data.
    """
    misspelt = [value for key, value in align.items() if suggest(str(key), ["method"])]
    if misspelt and misspelt[0] in ALIGNMENTS:
        return str(misspelt[0])  # so that options of that method are not complained about too
    return "mixed" if has_data and align.get("reference", JOINT) == JOINT else "weight_matching"


# A branch of the union is marked in the location of pydantic's errors, as unions are in `fields`.
_UNKNOWN = "\0align: unknown"
_TAGS = {method: f"\0align: {method}" for method in ALIGNMENTS}
ALIGNMENT_TAGS = frozenset((*_TAGS.values(), _UNKNOWN))


def _branch(value: Any) -> str:
    """Return the tag of the method of `value`; of the nearest where it is misspelt."""
    if isinstance(value, AlignSpec):
        return _TAGS[value.method]
    method = value.get("method") if isinstance(value, Mapping) else "weight_matching"
    if not isinstance(method, str):
        return _UNKNOWN
    if method in _TAGS:
        return _TAGS[method]
    suggestion = suggest(method, _TAGS)
    return next((tag for known, tag in _TAGS.items() if f"'{known}'" in suggestion), _UNKNOWN)


def method_meant(location: Sequence[str | int]) -> str | None:
    """Return the method whose options are checked at the `location` of an error of pydantic's."""
    for method, tag in _TAGS.items():
        if tag in location:
            return method
    return None


if typing.TYPE_CHECKING:
    AlignField = AlignSpec
else:
    _branches = [Annotated[model, Tag(_TAGS[method])] for method, model in ALIGNMENTS.items()]
    _branches.append(Annotated[UnknownMethod, Tag(_UNKNOWN)])
    AlignField = Annotated[typing.Union[tuple(_branches)], Discriminator(_branch)]  # noqa: UP007
"""`align` of a run spec: the model of its method."""
