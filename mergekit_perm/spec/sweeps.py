"""A sweep: one run spec with several values of some fields, and several sets of seeds."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mergekit_perm.errors import SpecError
from mergekit_perm.spec.load import loads, read
from mergekit_perm.spec.run_spec import RunSpec


@dataclass(frozen=True, slots=True)
class Variation:
    """One run of a sweep.

    Attributes:
        label: what tells it from runs with other values; those that differ by seeds share it.
        seeds: which set of seeds it has, counted from 0.
        overrides: what it sets in the run spec.
    """

    label: str
    seeds: int
    overrides: tuple[str, ...]


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
    spec = loads(text, file=file, folder=folder, overrides=overrides)
    if spec.sweep is None:
        raise SpecError(
            f"{file}: this spec has no sweep; add, for example, sweep: {{seeds: 5}}, or use "
            "perm-merge run"
        )
    sweep = Sweep(spec, tuple(_variations(spec)), text, file, folder, tuple(overrides))
    for variation in sweep.variations:
        sweep.spec_of(variation)
    return sweep


def _variations(spec: RunSpec) -> Iterator[Variation]:
    assert spec.sweep is not None
    fields = list(spec.sweep.over)
    taken: list[str] = []
    for values in itertools.product(*spec.sweep.over.values()):
        given = dict(zip(fields, values, strict=True))
        words = [_words(field, value) for field, value in given.items()]
        label = "-".join(words) or spec.name
        taken.append(label)
        if taken.count(label) > 1:
            label = f"{label}-{taken.count(label)}"
        own = [f"{field}={json.dumps(value)}" for field, value in given.items()]
        for seeds in range(spec.sweep.seeds):
            name = label if spec.sweep.seeds == 1 else f"{label}-{seeds}"
            yield Variation(label, seeds, (f"name={name}", *own, *_seeds(spec, seeds)))


def _seeds(spec: RunSpec, number: int) -> Iterator[str]:
    """Yield the seeds of one set: those of the spec, and so far on that no two sets share one."""
    seeds = {name: each.train.seed for name, each in spec.networks.items() if each.train}
    stride = max(seeds.values(), default=0) - min(seeds.values(), default=0) + 1
    for name, seed in seeds.items():
        yield f'networks."{name}".train.seed={seed + number * stride}'


def _words(field: str, value: object) -> str:
    """Return one value as part of a name: text says what it is, numbers do not."""
    text = re.sub(r"[^A-Za-z0-9._]+", "-", json.dumps(value)).strip("-.") or "none"
    return text if isinstance(value, str) else f"{field.rpartition('.')[2]}-{text}"
