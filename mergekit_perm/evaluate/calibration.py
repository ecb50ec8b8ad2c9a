"""What is re-estimated after weights have been mixed, by name.

A calibration is named by its steps, as in ``repair+temperature``: the first changes layers, and
`temperature` scales what comes out of the last one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from mergekit_perm.data.batches import Batches
from mergekit_perm.errors import EvaluationError, suggest
from mergekit_perm.evaluate.batch_norms import has_batch_norm, re_estimating
from mergekit_perm.evaluate.memory import Room, attempt
from mergekit_perm.evaluate.metrics import evaluating
from mergekit_perm.evaluate.repair import Repair

if TYPE_CHECKING:
    from mergekit_perm.data import Split

# Makes a split ready in batches of a size.
MakeBatches = Callable[["Split", int], Batches]

TEMPERATURE = "temperature"
_SCALED = f"+{TEMPERATURE}"

CALIBRATIONS = (
    "none", "batch_norm", "repair", TEMPERATURE, f"batch_norm{_SCALED}", f"repair{_SCALED}",
)  # fmt: skip
"""Calibrations by name."""


class Calibrator(Protocol):
    """Changes the layers of mixtures, made ready once for many of them.

    Attributes:
        batches: what it looks at, another size of which may be put there; None if at nothing.
    """

    batches: Batches | None

    def see(self, networks: Iterable[nn.Module]) -> None:
        """Look at the networks that are mixed, before the first mixture; nothing if it has."""

    def __call__(self, module: nn.Module, weights: Sequence[float]) -> None:
        """Calibrate `module`, the mixture with `weights`, in place."""


def calibrator(
    name: str,
    train_split: Split | None,
    *,
    device: torch.device,
    batch_size: int,
    make: MakeBatches | None = None,
) -> Calibrator:
    """Return what calibration `name` does to layers, for modules on `device`.

    Args:
        name: a name in `CALIBRATIONS`; what `temperature` does is left out.
        train_split: training examples; labels are not read.
        device: where modules are.
        batch_size: examples at a time, raised by as little as it takes that none is alone: a single
            one has no variance.
        make: makes the split ready, for those who have its data on the device already.

    Raises:
        EvaluationError: an unknown name, or no split of 2 examples or more where one is needed.
    """
    of_layers, _ = steps_of(name)
    if of_layers == "none":
        return _Nothing()
    if train_split is None or len(train_split) < 2:
        found = "there is none"
        if train_split is not None:
            found = f"'{train_split.name}' has {len(train_split)}"
        raise EvaluationError(
            f"calibration '{of_layers}' needs a split of at least 2 training examples; {found}"
        )
    size = _without_single(len(train_split), batch_size)
    if make is None:
        batches = Batches(train_split, device=device, batch_size=size)
    else:
        batches = make(train_split, size)
    return _OF_LAYERS[of_layers](batches)


def within_memory(
    work: Callable[[], object],
    calibrate: Calibrator,
    device: torch.device,
    room: Room,
    *,
    make_room: Callable[[], bool] = lambda: False,
) -> None:
    """Do `work` by `calibrate`, with half as many examples at a time where memory runs out.

    Statistics depend a little on how many there are, so that it warns when that happens, in `room`
    too, and first asks to `make_room` otherwise, which tells whether there was anything to give up.

    Raises:
        EvaluationError: no fewer examples are possible.
    """
    before = calibrate.batches
    while isinstance(error := attempt(work, device), RuntimeError):
        if make_room():
            continue
        batches = calibrate.batches
        if batches is None:
            raise EvaluationError(
                f"{device} has too little memory to mix networks; choose another `device`"
            ) from error
        size = _without_single(len(batches), batches.batch_size // 2)
        if size >= batches.batch_size:
            raise EvaluationError(
                f"{device} has too little memory to calibrate, even on {size} examples at a time; "
                "choose another `device`, or leave `calibration` at none"
            ) from error
        calibrate.batches = batches.resized(size)
    if before is None or calibrate.batches is None or calibrate.batches is before:
        return
    room.calibrating = size = calibrate.batches.batch_size
    warning = (
        f"{device} has too little memory to calibrate on {before.batch_size} examples at a time: "
        f"from here on there are {size}, which statistics that are estimated again depend on a "
        f"little; for the same number everywhere set `batch_size` to {size}"
    )
    room.notes.append(warning)
    warnings.warn(warning, stacklevel=2)


def steps_of(name: str) -> tuple[str, bool]:
    """Return what calibration `name` does to layers, and whether it takes the best temperature.

    Raises:
        EvaluationError: no such calibration.
    """
    known_calibration(name)
    scaled = name == TEMPERATURE or name.endswith(_SCALED)
    return ("none" if name == TEMPERATURE else name.removesuffix(_SCALED)), scaled


def other_temperature(name: str) -> str:
    """Return the calibration that does what `name` does, but for the best temperature.

    It is ``repair+temperature`` for ``repair`` and the other way round, ``temperature`` for
    ``none``. Both are measured in one pass.

    Raises:
        EvaluationError: no such calibration.
    """
    of_layers, scaled = steps_of(name)
    if scaled:
        return of_layers
    return TEMPERATURE if of_layers == "none" else f"{of_layers}{_SCALED}"


def known_calibration(name: str) -> str:
    """Return `name`, which must be one in `CALIBRATIONS`.

    Raises:
        EvaluationError: it is none.
    """
    if name not in CALIBRATIONS:
        raise EvaluationError(
            f"no calibration '{name}'{suggest(name, CALIBRATIONS)}; "
            f"choose one of {', '.join(CALIBRATIONS)}"
        )
    return name


def effective_calibration(name: str, *, batch_norm: bool) -> str:
    """Return the calibration that does what `name` does.

    Args:
        name: one in `CALIBRATIONS`.
        batch_norm: whether there is a BatchNorm layer to re-estimate.
    """
    if batch_norm:
        return name
    steps = [step for step in name.split("+") if step != "batch_norm"]
    return "+".join(steps) or "none"


class _Nothing:
    batches: Batches | None = None

    def see(self, networks: Iterable[nn.Module]) -> None:
        """Look at nothing."""

    def __call__(self, module: nn.Module, weights: Sequence[float]) -> None:
        """Change nothing."""


class _ReEstimated(_Nothing):
    def __init__(self, batches: Batches) -> None:
        self.batches: Batches | None = batches

    def __call__(self, module: nn.Module, weights: Sequence[float]) -> None:  # noqa: ARG002
        """Estimate BatchNorm statistics again; no mixture's depend on its weights."""
        if self.batches is None or not has_batch_norm(module):
            return
        with evaluating(module), torch.no_grad(), re_estimating(module):
            for x, _ in self.batches:
                module(x)


_OF_LAYERS: Mapping[str, Callable[[Batches], Calibrator]] = MappingProxyType(
    {"batch_norm": _ReEstimated, "repair": Repair}
)


def _without_single(examples: int, batch_size: int) -> int:
    """Return the least size from `batch_size` up that leaves no batch with one example."""
    size = max(2, batch_size)
    while size < examples and examples % size == 1:
        size += 1
    return size
