"""The run spec as typed, frozen values: one model per section, each default in one place.

Models are filled from JSON text in strict mode, so that `true` is no 1 and `"5"` is no 5, and an
unknown key is an error. What needs more than one section is checked in `cross_checks`; how a
failure is worded is in `problems`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

from mergekit_perm.spec.fields import (
    AtLeastTwo,
    BatchSize,
    Calibration,
    Calibrations,
    Controls,
    Count,
    Device,
    Ema,
    Epochs,
    Names,
    NonNegative,
    Pairs,
    Seed,
    Share,
    Size,
    Steps,
    Text,
    distinct,
    expected,
    refused,
)

Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["one_cycle", "cosine", "step", "constant"]


class Section(BaseModel):
    """A mapping with known keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class DataSpec(Section):
    """A data set: ``digits``, ``torchvision:NAME``, ``folder:PATH`` or ``package.module:function``.

    Attributes:
        source: which one.
        root: the folder it is in, as written in the spec; see `RunSpec.path`.
        options: passed to what loads it.
    """

    source: Text
    root: Text | None = None
    options: dict[str, JsonValue] = Field(default_factory=dict)


class AugmentSpec(Section):
    """Random changes of training inputs: mirrored, cropped after padding by `crop`, with noise."""

    flip: bool = False
    crop: Size = 0
    noise: NonNegative = 0.0


class TrainSpec(Section):
    """How networks are trained; the fields mean what `mergekit_perm.train.Recipe` says.

    Attributes:
        checkpoints: epochs after which the network is kept as well as at its end, 0 before the
            first: they make it a sequence.
    """

    epochs: Count = 60
    optimizer: Optimizer = "sgd"
    learning_rate: NonNegative = 0.1
    momentum: Share = 0.9
    weight_decay: NonNegative = 1e-4
    batch_size: Count = 64
    schedule: Schedule = "one_cycle"
    warmup_epochs: NonNegative = 0.0
    milestones: tuple[Count, ...] = ()
    gamma: NonNegative = 0.1
    augment: AugmentSpec = AugmentSpec()
    label_smoothing: Share = 0.0
    checkpoints: Epochs = ()

    def keywords(self) -> dict[str, Any]:
        """Return what `Recipe` takes by name, the values of `augment` among it."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        del values["augment"], values["checkpoints"]
        return {**values, **dict(self.augment)}


class PruneSpec(Section):
    """Iterative magnitude pruning with weight rewinding; see `mergekit_perm.train.pruning`.

    Attributes:
        levels: how often the network is pruned and trained again.
        fraction: of the weights that are left, removed each time.
        rewind: the epoch whose weights the rest goes back to.
        exclude: names of weights that stay; `*` stands for any part of one.
    """

    levels: Count
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    rewind: Size = 0
    exclude: tuple[Text, ...] = ()


class NetworkTrain(Section):
    """How one network is trained: its seed, and what differs from `train`; None is as there."""

    seed: Seed
    epochs: Count | None = None
    optimizer: Optimizer | None = None
    learning_rate: NonNegative | None = None
    momentum: Share | None = None
    weight_decay: NonNegative | None = None
    batch_size: Count | None = None
    schedule: Schedule | None = None
    warmup_epochs: NonNegative | None = None
    milestones: tuple[Count, ...] | None = None
    gamma: NonNegative | None = None
    augment: AugmentSpec | None = None
    label_smoothing: Share | None = None
    checkpoints: Epochs | None = None

    def over(self, train: TrainSpec) -> TrainSpec:
        """Return `train` with the values given here in place of its own."""
        given = {name: value for name, value in self if name != "seed" and value is not None}
        return train.model_copy(update=given)


class NetworkSpec(Section):
    """One network: trained here, or read from a checkpoint, or from several.

    Attributes:
        train: how it is trained, or None.
        prune: how it is pruned, level by level, in place of the run's `prune`.
        checkpoints: a pattern such as ``runs/a/checkpoint-*.pth.tar``, or None: the checkpoints
            of one training, each with its epoch in its name, of which the last is the network.
        checkpoint: a file, as written in the spec (see `RunSpec.path`), or ``hf-hub:org/id@rev``
            or ``local-dir:PATH``; or None.
        ema: take the averaged weights of a checkpoint; ``auto`` prefers them where there are any.
        architecture: in place of the one of the run.
        options: of the architecture; see `RunSpec.options_of`.
    """

    train: NetworkTrain | None = None
    prune: PruneSpec | None = None
    checkpoint: Text | None = None
    checkpoints: Text | None = None
    ema: Ema = "auto"
    architecture: Text | None = None
    options: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        origins = ("train", "checkpoint", "checkpoints")
        given = [name for name in origins if getattr(self, name) is not None]
        if not given:
            raise refused(
                "a network needs 'train' or 'checkpoint', found neither",
                hint="write, for example, {train: {seed: 0}}",
            )
        if len(given) > 1:
            raise refused(
                "a network is trained or read from a checkpoint, found both"
                if "train" in given
                else "a network is read from one checkpoint or a sequence of them, found both",
                hint=f"remove '{given[0]}' or '{given[1]}'",
            )
        if self.train is None and self.prune is not None:
            raise refused(
                "pruning trains again, and this network is read from a checkpoint",
                hint="remove 'prune', or train the network here",
            )
        if self.train is not None and self.ema != "auto":
            raise refused("'ema' is for a checkpoint, and this network is trained")
        return self


class SimplexSpec(Section):
    """Points of the simplex of all networks.

    Attributes:
        grid: all weights that are multiples of 1/grid.
        samples: so many random points besides, uniformly distributed.
        seed: of these.
        search: so many points besides, each where the loss of the first split may be highest.
    """

    grid: Count
    samples: Size = 0
    seed: Seed = 0
    search: Size = 0


class MatrixSpec(Section):
    """Barriers of permutations found at one checkpoint of sequences and applied at another.

    Attributes:
        found_at: epochs, and levels of pruning, at which networks are aligned.
        applied_at: epochs and levels at which the barriers of pairs are measured.
        points: on each path, both ends included.
    """

    found_at: Steps = "all"
    applied_at: Steps = "all"
    points: AtLeastTwo = 11


class CompositionSpec(Section):
    """Barriers of permutations composed along paths and cycles of networks matched in pairs.

    Attributes:
        lengths: of paths, in matchings: a path of length 2 goes from a by b to c. None is 1 to 3,
            as far as there are networks.
        cycles: of how many networks; None is 3, where there are as many.
        paths: of each length, and cycles of each, at most; random ones where there are more.
        seed: of these.
        points: on the line between the ends, both ends included.
    """

    lengths: Annotated[tuple[Count, ...], AfterValidator(distinct)] | None = None
    cycles: Annotated[tuple[AtLeastTwo, ...], AfterValidator(distinct)] | None = None
    paths: Count = 20
    seed: Seed = 0
    points: AtLeastTwo = 11


class MaskTransportSpec(Section):
    """Networks trained under the masks of others, permuted onto them, beside masks to compare with.

    Attributes:
        levels: of pruning.
        level_permutations: masks permuted as networks match at their own level, besides those
            permuted as the run has aligned its networks.
        trainings: of every mask, the first in the order of examples that the network was trained
            in; a random mask is another one each time.
    """

    levels: Steps = "all"
    level_permutations: bool = True
    trainings: Count = 1


class EvaluateSpec(Section):
    """What is measured.

    Attributes:
        splits: of the data.
        points: on the path between two networks, both ends included.
        pairs: ``all``, ``none``, those with the reference (``spokes``), those without it
            (``far_edges``), or a list, of checkpoints too, as in ``[a@5, b]``; `RunSpec.pairs`
            resolves it.
        simplex: the grid over all networks at once, or None.
        matrix: over the checkpoints of sequences, or None.
        composition: along paths of networks, or None.
        mask_transport: how networks do under the masks of others, or None.
        controls: ``random_permutation`` measures pairs of which one is permuted at random,
            ``planted_copy`` a permuted copy of the reference that is aligned to it.
        calibration: what is re-estimated after mixing; each choice is measured. ``repair`` gives
            mixtures the statistics of the networks they are mixed from; ``temperature`` is the
            loss at the temperature that suits the split best, of mixtures and networks alike.
        device: auto, cpu, mps, cuda, cuda:N, or several as in cuda:0,cuda:1: points are spread
            over them.
        batch_size: examples at a time; auto is what suits the device, and 512 to calibrate with.
        precision: float32, tf32 (of CUDA), or bfloat16 (autocast).
    """

    splits: Names = ("train", "test")
    points: AtLeastTwo = 25
    pairs: Pairs = "all"
    simplex: SimplexSpec | None = None
    matrix: MatrixSpec | None = None
    composition: CompositionSpec | None = None
    mask_transport: MaskTransportSpec | None = None
    controls: Controls = ()
    calibration: Calibrations = ("none",)
    device: Device = "auto"
    batch_size: BatchSize = "auto"
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"


class GateSpec(Section):
    """A barrier that must not be higher than `at_most`."""

    barrier: Literal["pair", "simplex"]
    metric: Literal["loss", "error"]
    split: Text
    at_most: NonNegative
    alignment: Literal["naive", "aligned"] = "aligned"
    calibration: Calibration = "none"


def _named_data(value: Any) -> Any:
    """Let ``data: digits`` stand for ``data: {source: digits}``."""
    if value is None or isinstance(value, dict):
        return value
    if not isinstance(value, str):
        raise expected("the name of a data set, or a mapping with source, root and options")
    return {"source": value}


DataField = Annotated[DataSpec | None, BeforeValidator(_named_data)]
