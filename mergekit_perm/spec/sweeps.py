"""A sweep: one run spec with several values of some fields, and several sets of seeds."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue

from mergekit_perm.errors import SpecError, suggest
from mergekit_perm.spec.load import loads, read
from mergekit_perm.spec.run_spec import RunSpec

# What all runs of a sweep share, and how long a value may be in a name.
_NOT_SWEPT = ("format", "name", "sweep")
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class Variation:
    """One run of a sweep.

    Attributes:
        label: what tells it from runs with other values; those that differ by seeds share it.
        seeds: which set of seeds it has, counted from 0.
        overrides: what it sets in the run spec.
        values: by field what the sweep sets it to, as JSON.
    """

    label: str
    seeds: int
    overrides: tuple[str, ...]
    values: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Sweep:
    """A run spec with a section `sweep`, and the runs that it stands for.

    Attributes:
        spec: of the sweep itself, with the values as they are written.
        variations: the runs, all seeds of one after another.
        text, file, folder, overrides: what the spec was read from.
    """

    spec: RunSpec
    variations: tuple[Variation, ...]
    text: str
    file: str
    folder: Path
    overrides: tuple[str, ...]

    def spec_of(self, variation: Variation) -> RunSpec:
        """Return the run spec of one run.

        Raises:
            SpecError: its values are no run spec.
        """
        return loads(
            self.text,
            file=self.file,
            folder=self.folder,
            overrides=[*self.overrides, "sweep=null", *variation.overrides],
        )


def load_sweep(path: Path | str, *, overrides: Sequence[str] = ()) -> Sweep:
    """Read the sweep in file `path`, and check every run of it; see `load` for the arguments.

    Raises:
        SpecError: as `load` does, of the sweep or of one of its runs; or it has no `sweep`.
    """
    text, file, folder = read(path)
    return loads_sweep(text, file=file, folder=folder, overrides=overrides)


def loads_sweep(
    text: str, *, file: str = "<string>", folder: Path | None = None, overrides: Sequence[str] = ()
) -> Sweep:
    """Read the sweep in `text`; see `loads` for the arguments, and `load_sweep`."""
    folder = Path() if folder is None else folder
    spec = loads(text, file=file, folder=folder, overrides=overrides)
    if spec.sweep is None:
        raise SpecError(
            f"{file}: this spec has no sweep; add, for example, sweep: {{seeds: 5}}, or use "
            "perm-merge run"
        )
    plain = Sweep(spec, (), text, file, folder, tuple(overrides))
    sweep = replace(plain, variations=tuple(_variations(plain)))
    for variation in sweep.variations:
        sweep.spec_of(variation)
    _check_claims(sweep)
    return sweep


def _variations(sweep: Sweep) -> Iterator[Variation]:
    """Yield every run of `sweep`, whose own variations are not known yet."""
    settings = sweep.spec.sweep
    assert settings is not None
    labels: list[str] = []
    of_label: list[tuple[tuple[str, str], ...]] = []
    over = [list(_values(key, values, sweep.file)) for key, values in settings.over.items()]
    for chosen in itertools.product(*over):
        given = {field: value for each in chosen for field, value in each.items()}
        label = "-".join(_words(field, value) for field, value in given.items()) or sweep.spec.name
        labels.append(_apart(label, labels))
        of_label.append(tuple((field, json.dumps(value)) for field, value in given.items()))
    # Seeds are those that a variation has by itself, which may be among its values.
    seeds = [
        _seeds(sweep.spec_of(Variation(label, 0, _set(own))))
        for label, own in zip(labels, of_label, strict=True)
    ]
    if settings.seeds > 1 and not all(seeds):
        raise SpecError(
            f"{sweep.file}: sweep.seeds: no network is trained here, so that all {settings.seeds} "
            "sets of seeds would be the same networks; remove it"
        )
    stride = max((max(own.values()) - min(own.values()) for own in seeds if own), default=0) + 1
    for label, values, own in zip(labels, of_label, seeds, strict=True):
        for number in range(settings.seeds):
            name = label if settings.seeds == 1 else f"{label}-{number}"
            moved = tuple(
                f'networks."{network}".train.seed={seed + number * stride}'
                for network, seed in own.items()
                if number
            )
            overrides = (f"name={json.dumps(name)}", *_set(values), *moved)
            yield Variation(label, number, overrides, values)


def _set(values: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return overrides that set fields to values that are written as JSON."""
    return tuple(f"{field}={value}" for field, value in values)


def _values(key: str, values: Sequence[JsonValue], file: str) -> Iterator[dict[str, JsonValue]]:
    """Yield what a key of `over` sets in turn, by field: of several fields, each its own value."""
    fields = [field.strip() for field in key.split(",")]
    for field in fields:
        if field.partition(".")[0] in _NOT_SWEPT:
            raise SpecError(f"{file}: sweep.over: '{field}' is not for a sweep to change")
    for value in values:
        if len(fields) == 1:
            yield {fields[0]: value}
        elif isinstance(value, list) and len(value) == len(fields):
            yield dict(zip(fields, value, strict=True))
        else:
            raise SpecError(
                f"{file}: sweep.over: '{key}' is {len(fields)} fields, so that each of its values "
                f"is a list of {len(fields)}, found {json.dumps(value)}"
            )


def _seeds(spec: RunSpec) -> dict[str, int]:
    return {name: each.train.seed for name, each in spec.networks.items() if each.train}


def _words(field: str, value: object) -> str:
    """Return one value as part of a name: text says what it is, numbers do not."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = re.sub(r"(^|(?<=[\[, ]))-(?=[0-9])", "minus", text)
    text = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.") or "none"
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return text if isinstance(value, str) else f"{field.rpartition('.')[2]}-{text}"


def _apart(label: str, taken: Sequence[str]) -> str:
    """Return `label`, numbered where one of `taken` is the same but for upper and lower case."""
    known = {other.casefold() for other in taken}
    number, found = 1, label
    while found.casefold() in known:
        number += 1
        found = f"{label}-{number}"
    return found


def _check_claims(sweep: Sweep) -> None:
    """Raise SpecError for a claim about runs, splits or calibrations that there are not."""
    assert sweep.spec.sweep is not None
    labels = list(dict.fromkeys(variation.label for variation in sweep.variations))
    evaluate = sweep.spec.evaluate
    for place, claim in enumerate(sweep.spec.sweep.claims):
        bound = claim.at_most or claim.at_least
        where = f"{sweep.file}: sweep.claims[{place}]"
        named = [*(claim.runs or ()), *([bound.run] if bound and bound.run else [])]
        for label in named:
            if label not in labels:
                raise SpecError(
                    f"{where}: no runs '{label}'{suggest(label, labels)}; there is "
                    f"{', '.join(labels)}"
                )
        known = {"split": evaluate.splits, "calibration": evaluate.calibration} if evaluate else {}
        for field, values in known.items():
            value = getattr(claim, field)
            if value not in values:
                raise SpecError(
                    f"{where}: evaluate has no {field} '{value}'{suggest(value, values)}; there is "
                    f"{', '.join(values)}"
                )
        heights = [claim.value, *([bound.of] if bound and bound.of else [])]
        of_matrix = any(height.figure is None for height in heights)
        if evaluate is None or (of_matrix and evaluate.matrix is None):
            what = "evaluate has no matrix" if evaluate else "nothing is evaluated"
            raise SpecError(f"{where}: a claim is about what is measured, and {what}")
