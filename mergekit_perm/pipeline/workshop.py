"""Where the stages of a run work: its folder, its inputs, and what stays in memory between them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from mergekit_perm import checkpoints, evaluate, networks
from mergekit_perm.alignment import Alignment
from mergekit_perm.errors import RunError
from mergekit_perm.pipeline.folder import RunFolder
from mergekit_perm.pipeline.inputs import Inputs
from mergekit_perm.progress import Progress
from mergekit_perm.spec import RunSpec
from mergekit_perm.spec.merge_models import MergeSpec
from mergekit_perm.spec.sequences import end_of

State = dict[str, torch.Tensor]
Result = dict[str, Any]
Engine = evaluate.Engine | evaluate.Team


@dataclass(slots=True)
class Workshop:
    """Where stages work: the folder, the inputs, and what is kept in memory between stages.

    Attributes:
        use_cache: take what was done before this run.
        results: of the stages that are finished, by name.
    """

    inputs: Inputs
    folder: RunFolder
    progress: Progress
    use_cache: bool
    trust_permutations: bool
    results: Mapping[str, Result] = field(default_factory=dict)
    _module: nn.Module | None = None
    _engine: tuple[Hashable, Engine] | None = None
    _rooms: dict[torch.device, evaluate.Room] = field(default_factory=dict)

    @property
    def left_out(self) -> Mapping[str, str]:
        """The names that files leave out, each with the name that stands for it.

        None of timm's: of its networks CoaT has layers under several names, and timm loads what has
        all of them, whereas safetensors' `load_model` takes what has one.
        """
        inputs = self.inputs
        return inputs.outline.ties if networks.is_function(inputs.architecture) else {}

    def done(self, stage: str, key: str) -> Result | None:
        """Return the result of a stage that is done: in this run, or before if that may be used."""
        if stage in self.results or not self.use_cache:
            return self.results.get(stage)
        return self.folder.result(stage, key)

    def room(self, device: torch.device) -> evaluate.Room:
        """Return what there has been memory for on `device`."""
        return self._rooms.setdefault(device, evaluate.Room())

    def take_notes(self) -> list[str]:
        """Return what there was to tell of devices since this was last asked."""
        found = [note for room in self._rooms.values() for note in room.notes]
        for room in self._rooms.values():
            room.notes.clear()
        return found

    def read(self, file: str) -> State:
        """Return the weights in `file` of the folder, mapped into memory."""
        return checkpoints.map_state(self.folder.path / file)

    def write(self, file: str, state: State, **metadata: str) -> None:
        """Write `state` to `file` of the folder, tied tensors as `left_out` says."""
        path = self.folder.path / file
        checkpoints.save(path, state, metadata=metadata, ties=self.left_out)

    def module(self) -> nn.Module:
        """Return the one module that every network is evaluated in; its weights are anyone's."""
        if self._module is None:
            self._module = networks.build(self.inputs.architecture, self.inputs.options, seed=0)
        return self._module

    def family(self, alignment: str) -> dict[str, State]:
        """Return every network by name: as it was ("naive") or after alignment ("aligned")."""
        return self.named(self.inputs.spec.networks, alignment)

    def named(self, names: Iterable[str], alignment: str) -> dict[str, State]:
        """Return networks by name, and checkpoints as in ``a@5``.

        They are as they were ("naive"), or ("aligned") permuted as their network was aligned.
        """
        return {name: self._placed(name, alignment) for name in names}

    def merged_from(
        self, recipe: MergeSpec, alignment: str
    ) -> dict[str, Mapping[str, torch.Tensor]]:
        """Return every network by name, and the checkpoints that `recipe` merges besides.

        Tensors are made when they are asked for: of many networks, even names take memory.
        """
        spec = self.inputs.spec
        names = dict.fromkeys([*spec.networks, *spec.merged_networks(recipe)])
        files = {name: self._file(name, alignment) for name in names}
        return {
            name: self._placed(name, alignment)
            if file is None
            else checkpoints.StateFile(self.folder.path / file)
            for name, file in files.items()
        }

    def _file(self, full: str, alignment: str) -> str | None:
        """Return where a network is, so placed, or a checkpoint; None where that is in no file."""
        spec = self.inputs.spec
        name, step = spec.checkpoint_named(full)
        if alignment == "naive":
            return file_named(spec, full)
        return aligned_file(name) if step is None else None

    def _placed(self, full: str, alignment: str) -> State:
        file = self._file(full, alignment)
        if file is not None:
            return self.read(file)
        name, _ = self.inputs.spec.checkpoint_named(full)
        state = self.read(file_named(self.inputs.spec, full))
        return Alignment.load(self.folder.path / permutation_file(name)).apply(state)

    def checkpoints_of(self, step: str) -> dict[str, State]:
        """Return every network by name, as it was at `step` of its sequence."""
        spec = self.inputs.spec
        return {name: self.read(checkpoint_file(spec, name, step)) for name in spec.networks}

    def engine(self, alignment: str, calibration: str, *, both: bool = False) -> Engine:
        """Return what measures mixtures of the family; the last one asked for is kept."""
        which = alignment, calibration, both
        return self.engine_for(which, partial(self.family, alignment), calibration, both=both)

    def engine_for(
        self,
        which: Hashable,
        family: Callable[[], Mapping[str, State]],
        calibration: str,
        *,
        both: bool = False,
    ) -> Engine:
        """Return what measures mixtures of a family; the last one asked for is kept.

        Args:
            which: tells the family and calibration from others.
            family: makes it.
            calibration: of mixtures.
            both: whether to measure beside it what adds or leaves out the temperature.
        """
        if self._engine is None or self._engine[0] != which:
            self._engine = None  # its memory is for the next one
            states = list(family().values())
            self._engine = which, self._new_engine(states, calibration, both=both)
        return self._engine[1]

    def engine_of(self, state: State, calibration: str, *, both: bool = False) -> Engine:
        """Return what measures one network."""
        self._engine = None
        return self._new_engine([state], calibration, both=both)

    def _new_engine(self, states: Sequence[State], calibration: str, *, both: bool) -> Engine:
        """Return what measures mixtures of `states` on the splits of the spec."""
        inputs = self.inputs
        if inputs.data is None or inputs.spec.evaluate is None:
            raise RunError("nothing can be evaluated: the spec has no `data` or no `evaluate`")
        batch_size = inputs.spec.evaluate.batch_size
        # The first takes the module itself, the others copies of it, so they come before.
        engines = [
            evaluate.Engine(
                self.module(),
                states,
                {split: inputs.data.splits[split] for split in inputs.splits},
                train_split=inputs.data.splits.get("train"),
                calibration=calibration,
                device=device,
                batch_size=None if batch_size == "auto" else batch_size,
                precision=inputs.spec.evaluate.precision,
                in_place=place == 0,
                both=both,
                room=self.room(device),
            )
            for place, device in reversed(list(enumerate(inputs.devices)))
        ]
        return engines[0] if len(engines) == 1 else evaluate.Team(engines[::-1])


def network_file(name: str) -> str:
    """Return where network `name` is kept in the run's folder."""
    return f"networks/{name}.safetensors"


def checkpoint_file(spec: RunSpec, name: str, step: str) -> str:
    """Return where the checkpoint `step` of network `name` is kept; its end is the network."""
    return network_file(name if step == end_of(spec.steps_of(name)) else f"{name}@{step}")


def file_named(spec: RunSpec, full: str) -> str:
    """Return where a network is kept, or a checkpoint of it as in ``a@5``."""
    name, step = spec.checkpoint_named(full)
    return network_file(name) if step is None else checkpoint_file(spec, name, step)


def mask_file(name: str, step: str) -> str:
    """Return where the mask of network `name` at level `step` of pruning is kept."""
    return f"masks/{name}@{step}.safetensors"


def aligned_file(name: str) -> str:
    """Return where network `name`, or a checkpoint of it as in ``a@5``, is after alignment."""
    return f"aligned/{name}.safetensors"


def merged_file(recipe: str) -> str:
    """Return where the network is kept that the recipe called `recipe` has merged."""
    return f"merged/{recipe}/model.safetensors"


def permutation_file(name: str) -> str:
    """Return where the permutations are kept that aligned network `name`.

    Those that were found at one checkpoint of its sequence go by that, as in ``a@5``.
    """
    return f"permutations/{name}.safetensors"
