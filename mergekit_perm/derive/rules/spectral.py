"""Fourier transforms, and complex tensors as pairs of real ones."""

from __future__ import annotations

import numpy as np

from mergekit_perm.derive.labels import Labels
from mergekit_perm.derive.primitives import pinned, resized, select
from mergekit_perm.derive.rules.table import Call, rule


@rule(*(f"fft_{kind}{dims}" for dims in ("", "2", "n")
        for kind in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")))  # fmt: skip
def fourier(call: Call) -> Labels:
    """Positions become frequencies, or the other way round: those axes stay."""
    value, dims = call["self"], call.get("dim")
    dims = range(len(value.axes)) if dims is None else [dims] if isinstance(dims, int) else dims
    return resized(pinned(call.facts, value, dims, "transformed by Fourier"), call.shape)


@rule("view_as_complex")
def as_complex(call: Call) -> Labels:
    """A last axis of length 2 becomes real and imaginary part."""
    value = pinned(call.facts, call["self"], [-1], "real and imaginary part")
    return select(call.facts, value, -1, np.array([0]), drop=True)


@rule("view_as_real")
def as_real(call: Call) -> Labels:
    """Real and imaginary part become a last axis of length 2."""
    value: Labels = call["self"]
    return Labels((*value.axes, (2,)), value.maps, value.constant, value.places)
