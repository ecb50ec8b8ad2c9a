"""How a network is trained: every choice in one frozen value."""

from __future__ import annotations

from dataclasses import dataclass

from mergekit_perm.errors import EvaluationError, suggest

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("one_cycle", "cosine", "step", "constant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A training recipe; the defaults train the digits MLPs of the quickstart.

    Attributes:
        epochs: passes over the split.
        optimizer: ``sgd``, ``adam`` or ``adamw``.
        learning_rate: the highest rate; the schedule says how it is reached and left.
        momentum: of SGD; the first beta of Adam and AdamW.
        weight_decay: applied to every parameter, biases and norms included.
        batch_size: examples per step; the last step of an epoch takes what is left.
        schedule: ``one_cycle``, ``cosine``, ``step`` or ``constant`` (see `schedules`).
        warmup_epochs: epochs, or a part of one, over which the rate rises linearly from near 0.
        milestones: epochs from which on ``step`` multiplies the rate by `gamma` once more.
        gamma: the factor of ``step``.
        flip: mirror each image left to right with probability 1/2.
        crop: pad by so many zero pixels (after normalisation) and crop back at a random place.
        noise: standard deviation of normal noise added to the inputs.
        label_smoothing: share of each label spread evenly over all classes.

    Raises:
        EvaluationError: a value out of its range, or an unknown optimizer or schedule.
    """

    epochs: int = 60
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 64
    schedule: str = "one_cycle"
    warmup_epochs: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    flip: bool = False
    crop: int = 0
    noise: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("schedule", self.schedule, SCHEDULES)
        for name in ("epochs", "batch_size"):
            _within(name, getattr(self, name), low=1)
        for name in ("learning_rate", "weight_decay", "warmup_epochs", "gamma", "crop", "noise"):
            _within(name, getattr(self, name), low=0)
        for name in ("momentum", "label_smoothing"):
            _within(name, getattr(self, name), low=0, below=1)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise EvaluationError(
            f"training recipe: no {name} '{value}'{suggest(value, known)}; "
            f"choose one of {', '.join(known)}"
        )


def _within(name: str, value: float, *, low: float, below: float = float("inf")) -> None:
    # Written so that NaN, which compares false with everything, is refused as well.
    if not low <= value < below:
        wanted = f"at least {low:g}" + (f" and below {below:g}" if below < float("inf") else "")
        raise EvaluationError(
            f"training recipe: {name} is {value}, but must be finite and {wanted}"
        )
