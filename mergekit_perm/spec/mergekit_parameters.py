"""The parameters of a mergekit file, of each model and of all, as those of one recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mergekit_perm.spec.mergekit_models import Model
from mergekit_perm.yaml_document import Keys, Problem, dump

# What mergekit takes where neither the model nor the file says it.
_DEFAULTS = {"density": 1.0, "gamma": 0.01, "epsilon": 0.15}
# One value for the whole merge: mergekit does not read these from a model.
_WHOLE = {"normalize", "rescale", "lambda", "t", "int8_mask", "normalize_weights", "eps"}
_WHOLE |= {"nuslerp_row_wise", "nuslerp_flatten", "max_iter", "tol", "filter_wise", "select_topk"}
_WHOLE |= {"r", "alpha"}
_ALSO_WHOLE = {"ram": {"epsilon"}, "ramplus_tl": {"epsilon"}}
# What changes nothing about the result.
_IDLE = {"int8_mask": "it changes only how mergekit stores masks"}


@dataclass(slots=True)
class Parameters:
    """The parameters of a recipe, with the place in the mergekit file that each comes from.

    Attributes:
        values: by key, as a run spec takes them.
        origins: by path within `values`, the path in the file.
        problems: of the file.
        notes: what is different here, each with its path in the file.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Keys, Keys] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[tuple[Keys, str]] = field(default_factory=list)


def read_parameters(
    method: str,
    overall: Mapping[str, Any],
    models: Mapping[str, Model],
    base: str | None,
) -> Parameters:
    """Return the parameters of `method`.

    Args:
        method: mergekit's id.
        overall: those of the whole file.
        models: of the file, by the names of their networks, the base among them.
        base: the name of the base model, where the method uses it.
    """
    result = Parameters()
    own = {name: model for name, model in models.items() if name != base}
    if base is not None and models[base].parameters:
        keys = ", ".join(models[base].parameters)
        note = f"{method} does not read parameters of the base model; left out: {keys}"
        result.notes.append(((*models[base].path[:-1], "parameters"), note))
    for key in dict.fromkeys([*overall, *(k for m in own.values() for k in m.parameters)]):
        places = list(_places(key, overall, own))
        if reason := _idle(method, key):
            result.notes += [(place, f"left out: {reason}") for place in places]
        elif places := [place for place in places if _belongs(method, key, place, result)]:
            result.notes += [*_gradients(key, overall, own)]
            _add(key, overall, own, places, result)
    return result


def _places(key: str, overall: Mapping[str, Any], own: Mapping[str, Model]) -> Iterator[Keys]:
    if key in overall:
        yield ("parameters", key)
    for model in own.values():
        if key in model.parameters:
            yield _place(model, key)


def _place(model: Model, key: str) -> Keys:
    return (*model.path[:-1], "parameters", key)


def _idle(method: str, key: str) -> str | None:
    if (method, key) == ("task_arithmetic", "density"):
        return "task_arithmetic takes all of every task vector, in mergekit as well"
    return _IDLE.get(key)


def _belongs(method: str, key: str, place: Keys, result: Parameters) -> bool:
    """Return whether mergekit reads `key` at `place`; otherwise that is a problem."""
    if place[0] == "parameters" or key not in _WHOLE | _ALSO_WHOLE.get(method, set()):
        return True
    message = f"'{key}' is one value for the whole merge, and mergekit ignores it here"
    hint = "remove it, or move it to the 'parameters' of the whole file"
    result.problems.append(Problem(place, message, hint, key=True))
    return False


def _add(
    key: str,
    overall: Mapping[str, Any],
    own: Mapping[str, Model],
    places: Sequence[Keys],
    result: Parameters,
) -> None:
    result.origins[key,] = places[0]
    if places == [("parameters", key)]:
        result.values[key] = overall[key]
        return
    values: dict[str, Any] = {}
    for name, model in own.items():
        if key in model.parameters:
            values[name] = _with_fallback(model.parameters[key], key, overall)
            result.origins[key, name] = _place(model, key)
        elif key in overall or key in _DEFAULTS:
            values[name] = overall.get(key, _DEFAULTS.get(key))
            result.origins[key, name] = ("parameters", key) if key in overall else places[0]
        elif key == "weight":
            message = "no weight, neither here nor in the 'parameters' of the whole file"
            hint = "add parameters: {weight: 1.0}, or 0 to leave it out; mergekit asks for one too"
            result.problems.append(Problem(model.path, message, hint))
    result.values[key] = values


def _with_fallback(value: Any, key: str, overall: Mapping[str, Any]) -> Any:
    """Return `value` with what counts where no filter in it matches: that of the whole file."""
    if not _is_filters(value) or any(_matches_all(item) for item in value):
        return value
    if key not in overall:
        return value
    wider = overall[key]
    return [*value, *(wider if _is_filters(wider) else [{"value": wider}])]


def _is_filters(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _matches_all(item: Mapping[str, Any]) -> bool:
    return item.get("filter") in (None, "*", "")


def _gradients(
    key: str, overall: Mapping[str, Any], own: Mapping[str, Model]
) -> Iterator[tuple[Keys, str]]:
    given: list[tuple[Keys, Any]] = [(("parameters", key), overall.get(key))]
    given += [(_place(model, key), model.parameters.get(key)) for model in own.values()]
    for place, value in given:
        inside = [item.get("value") for item in value] if _is_filters(value) else [value]
        for each in inside:
            if isinstance(each, list) and each:
                first = dump(each[0], flow=True).strip()
                yield (
                    place,
                    "a gradient: here its values go along the depth of the network, where "
                    f"mergekit-pytorch takes the first, {first}, for all tensors without saying so",
                )
