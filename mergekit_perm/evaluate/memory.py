"""Devices that run out of memory: how that is noticed, and what is freed before going on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate.pace import Pace

Result = TypeVar("Result")


@dataclass(slots=True)
class Room:
    """What a device has had memory for, so that the next engine there need not find out again.

    Attributes:
        most: examples at a time; None where memory has sufficed so far.
        calibrating: the same, of those that statistics are estimated on.
        paces: by calibration, which way points are measured quickest.
        notes: what a report tells of it, in words.
    """

    most: int | None = None
    calibrating: int | None = None
    paces: dict[str, Pace] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def calibrating_on(self, wanted: int) -> int:
        """Return how many examples at a time to calibrate with where so many are `wanted`."""
        return min(wanted, self.calibrating or wanted)


def out_of_memory(error: RuntimeError) -> bool:
    """Tell whether a device ran out of memory; not all have an error of its own for that."""
    words = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def attempt(work: Callable[[], Result], device: torch.device) -> Result | RuntimeError:
    """Return what `work` gives, or the error that `device` ran out of memory with.

    The error has no traceback, nor have those it was raised after, within `work`: they would hold
    on to all tensors that `work` has made. Their memory is there again.
    """
    before = sys.exception()
    try:
        return work()
    except RuntimeError as caught:
        if not out_of_memory(caught):
            raise
        error = caught
    forget_frames(error, before)
    free(device)
    return error


@contextmanager
def explaining(device: torch.device, what: str) -> Iterator[None]:
    """Say for what, and what to do about it, where `device` runs out of memory in the block.

    Raises:
        EvaluationError: it does.
    """
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise EvaluationError(f"{device} has too little memory {what}") from error


def forget_frames(error: BaseException, before: BaseException | None = None) -> None:
    """Take the tracebacks from `error` and its causes; from `before` and its own none is taken."""
    waiting, done = [error], [before]
    while waiting:
        each = waiting.pop()
        if not any(each is other for other in done):
            done.append(each.with_traceback(None))
            waiting += [e for e in (each.__context__, each.__cause__) if e is not None]


def free(device: torch.device) -> None:
    """Give back what PyTorch holds without using it: pieces of it may be too small."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
