"""Checks of what alignment is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch

from mergekit_perm.align.views import State
from mergekit_perm.errors import AlignmentError, suggest

JOINT = "joint"


def check_names(names: Collection[str], reference: str) -> None:
    """Check that there are two networks or more, and that the reference is one, or "joint"."""
    if len(names) < 2:
        raise AlignmentError(f"alignment needs at least two networks, found {len(names)}")
    if JOINT in names:
        raise AlignmentError(f"a network cannot be called '{JOINT}': that names the reference")
    if reference != JOINT and reference not in names:
        raise AlignmentError(
            f"reference '{reference}' is no network of this run{suggest(reference, names)}; "
            f"known: {', '.join(names)}, or {JOINT}"
        )


def check_known(
    solver: Callable[..., Any], options: Iterable[str], *, but: Collection[str]
) -> None:
    """Check that `solver` has all of `options`: its parameters `but` some."""
    known = inspect.signature(solver).parameters.keys() - set(but)
    for option in options:
        if option not in known:
            name = getattr(solver, "__name__", "the method")
            raise AlignmentError(f"{name} has no option '{option}'{suggest(option, known)}")


def check_finite(what: str, state: State) -> None:
    """Check that all numbers of `what`, a network or checkpoint, are finite."""
    for name, tensor in state.items():
        wrong = int((~torch.isfinite(tensor)).sum())
        if wrong:
            raise AlignmentError(
                f"{what}: {wrong} of {tensor.numel()} values of {name} are not finite; "
                "such a network cannot be aligned"
            )
