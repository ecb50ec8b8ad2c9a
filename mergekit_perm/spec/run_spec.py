"""A whole run spec, with the questions a pipeline asks of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, PrivateAttr

from mergekit_perm.merge.values import Rule
from mergekit_perm.spec.alignment import JOINT, AlignField, AlignSpec, Looks
from mergekit_perm.spec.fields import PRUNED, Name, Text
from mergekit_perm.spec.merge_models import MergeSpec, Missing, MissingSpec
from mergekit_perm.spec.models import (
    DataField,
    EvaluateSpec,
    GateSpec,
    NetworkSpec,
    PruneSpec,
    Section,
    TrainSpec,
)
from mergekit_perm.spec.paths import resolve_path
from mergekit_perm.spec.sequences import (
    END,
    end_of,
    epoch_in_name,
    of_checkpoints,
    sequence_files,
    split_name,
    steps_of,
)
from mergekit_perm.spec.sweep_models import SweepSpec

__all__ = ["FORMAT", "JOINT", "RunSpec", "chosen_pairs"]

FORMAT = "perm-merge/run@1"


class RunSpec(Section):
    """Everything that a run does, read from YAML by `load` and `loads`.

    Paths are kept as they are written, and `path` resolves them. Two specs are equal when they
    say the same and stand in the same folder.
    """

    format: Literal["perm-merge/run@1"]
    name: Name
    architecture: Text | None = None
    options: dict[str, JsonValue] = Field(default_factory=dict)
    data: DataField = None
    networks: Annotated[dict[Name, NetworkSpec], Field(min_length=1)]
    train: TrainSpec = TrainSpec()
    prune: PruneSpec | None = None
    missing: Missing = ()
    align: AlignField | None = None
    merge: tuple[MergeSpec, ...] = ()
    evaluate: EvaluateSpec | None = None
    gates: tuple[GateSpec, ...] = ()
    sweep: SweepSpec | None = None

    _folder: Path = PrivateAttr(default=Path())

    @property
    def folder(self) -> Path:
        """The folder that relative paths start from: that of the file of the spec."""
        return self._folder

    def in_folder(self, folder: Path) -> RunSpec:
        """Return this spec with relative paths starting from `folder`."""
        moved = self.model_copy()
        moved._folder = folder
        return moved

    def path(self, text: str) -> Path:
        """Return a path of the spec (a checkpoint, a permutation spec, a data root) resolved."""
        return resolve_path(text, self.folder)

    def training(self, name: str) -> TrainSpec:
        """Return how network `name` is trained: `train` with the network's own values over it.

        Raises:
            KeyError: no such network, or one that is read from a checkpoint.
        """
        train = self.networks[name].train
        if train is None:
            raise KeyError(f"network '{name}' is read from a checkpoint, not trained")
        return train.over(self.train)

    def pruning(self, name: str) -> PruneSpec | None:
        """Return how network `name` is pruned: as it says itself, or as the run does."""
        network = self.networks[name]
        return None if network.train is None else network.prune or self.prune

    def kept_epochs(self, name: str) -> tuple[int, ...]:
        """Return the epochs at which network `name`, which is trained, is kept, its end last.

        That to which pruning rewinds is among them.
        """
        recipe, pruning = self.training(name), self.pruning(name)
        rewound = () if pruning is None else (pruning.rewind,)
        return tuple(sorted({*recipe.checkpoints, *rewound, recipe.epochs}))

    def steps_of(self, name: str) -> tuple[str, ...]:
        """Return what the checkpoints of network `name` are called; none for a single one.

        Epochs come first, the end last of them, then ``prune1`` and so on.
        """
        return steps_of(self.networks[name], self.train, self.prune, self.folder)

    @property
    def steps(self) -> tuple[str, ...]:
        """What the checkpoints of all networks are called where they are sequences."""
        return self.steps_of(next(iter(self.networks)))

    def chosen_steps(self, steps: str | Sequence[str]) -> tuple[str, ...]:
        """Return `steps` by name: of ``all``, of one, or of each; ``end`` has that of its epoch."""
        if steps == "all":
            return self.steps
        several = [steps] if isinstance(steps, str) else steps
        named = (end_of(self.steps) if step == END else step for step in several)
        return tuple(dict.fromkeys(named))  # the end may be there by its epoch as well

    def checkpoint_named(self, full: str) -> tuple[str, str | None]:
        """Return the network, and which of its checkpoints, that a name such as ``a@5`` means.

        The checkpoint is None where it is the network itself, by whichever name.
        """
        name, step = split_name(full)
        if step is None or step == END or step == end_of(self.steps_of(name)):
            return name, None
        return name, step

    def chosen_levels(self, levels: str | Sequence[str]) -> tuple[str, ...]:
        """Return levels of pruning by name: of ``all``, of one, or of each."""
        every = tuple(step for step in self.steps if step.startswith(PRUNED))
        return every if levels == "all" else self.chosen_steps(levels)

    def checkpoint_file(self, name: str, step: str) -> Path:
        """Return the file of the checkpoint called `step` of network `name`, which is read."""
        pattern = self.networks[name].checkpoints or ""
        files = sequence_files(pattern, self.folder)
        return next(file for file in files if epoch_in_name(file) == int(step))

    def architecture_of(self, name: str) -> str:
        """Return the architecture of network `name`: its own, or that of the run."""
        found = self.networks[name].architecture or self.architecture
        assert found is not None  # `load` refuses a spec that leaves it open
        return found

    def options_of(self, name: str) -> dict[str, JsonValue]:
        """Return the options of network `name`: those of the run with the network's own over them.

        The options of the run are for its architecture, so that a network with another one
        has only its own.
        """
        network = self.networks[name]
        shared = self.options if self.architecture_of(name) == self.architecture else {}
        return {**shared, **network.options}

    def merged_networks(self, merge: MergeSpec) -> tuple[str, ...]:
        """Return the names of the networks that `merge` merges, its base model among them."""
        names = tuple(self.networks) if merge.networks is None else merge.networks
        base = merge.base_model
        return names if base is None or base in names else (base, *names)

    def temperature_split(self, merge: MergeSpec) -> str | None:
        """Return the split on which the temperature of a merged network is found, None without.

        A network that is right on all it was trained on has no best temperature there, so that it
        is the first split of `evaluate` besides ``train`` where the spec names none.
        """
        if "temperature" not in merge.calibrate:
            return None
        splits = () if self.evaluate is None else self.evaluate.splits
        others = [split for split in splits if split != "train"]
        return merge.calibrate_on or next(iter(others), "train")

    @property
    def held_out_split(self) -> str:
        """The split that a greedy soup is chosen on: the first of `evaluate` besides ``train``."""
        splits = () if self.evaluate is None else self.evaluate.splits
        return next((split for split in splits if split != "train"), "train")

    def about_missing(self, tensor: str) -> MissingSpec | None:
        """Return what the spec says of a tensor that networks may lack; None where they may not."""
        for each in self.missing:
            if Rule(each.filter, 0.0).matches(tensor):
                return None if each.policy == "error" else each
        return None

    @property
    def looks_at(self) -> Looks:
        """What alignment looks at: weights alone, training inputs as well, or labels too."""
        if self.align is None or self.data is None:
            return "weights"
        return self.align.looks_at

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of networks whose paths are evaluated; none without `evaluate`."""
        return tuple(pair for pair in self._all_pairs if not of_checkpoints(pair))

    @property
    def checkpoint_pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs that are evaluated and name a checkpoint, as in ``a@5`` and ``b``."""
        return tuple(filter(of_checkpoints, self._all_pairs))

    @property
    def _all_pairs(self) -> tuple[tuple[str, str], ...]:
        if self.evaluate is None:
            return ()
        return chosen_pairs(self.evaluate, tuple(self.networks), self.align)


def chosen_pairs(
    evaluate: EvaluateSpec, names: Sequence[str], align: AlignSpec | None
) -> tuple[tuple[str, str], ...]:
    """Return the pairs of `names` that `evaluate` asks for, each in the order of the spec."""
    if not isinstance(evaluate.pairs, str):
        return evaluate.pairs
    if evaluate.pairs == "none":
        return ()
    every = tuple(itertools.combinations(names, 2))
    if evaluate.pairs == "all":
        return every
    reference = None if align is None else align.reference
    spokes = evaluate.pairs == "spokes"
    return tuple(pair for pair in every if (reference in pair) == spokes)
