"""Permutations of coordinates, and the one convention for composing them.

`p[i]` is the source index of target `i` (gather form), so

    p.act(x) == x[p]                       and
    (p @ q).act(x) == q.act(p.act(x))      (p acts first, as in reading order).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class Permutation:
    """An immutable permutation of `n` coordinates.

    Args:
        indices: `n` whole numbers, each of 0..n-1 once; `indices[i]` is the source of target `i`.

    Raises:
        ValueError: when `indices` is not a permutation.
    """

    __slots__ = ("_indices",)

    def __init__(self, indices: Iterable[int] | Indices) -> None:
        given = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise ValueError(
                f"a permutation is a list of whole numbers, not {given.dtype} of "
                f"shape {given.shape}"
            )
        array = np.array(given, dtype=np.int64)
        if not np.array_equal(np.sort(array), np.arange(array.size)):
            raise ValueError(
                f"not a permutation of 0..{array.size - 1}: an index repeats or is out of range"
            )
        array.flags.writeable = False
        self._indices = array

    @classmethod
    def identity(cls, size: int) -> Self:
        """Return the permutation of `size` coordinates that moves nothing."""
        return cls(np.arange(size))

    @classmethod
    def random(cls, size: int, *, generator: np.random.Generator) -> Self:
        """Return a uniformly random permutation of `size` coordinates."""
        return cls(generator.permutation(size))

    @property
    def indices(self) -> Indices:
        """The source index of every target, int64 of shape (n,), read-only."""
        return self._indices

    @property
    def moved(self) -> int:
        """How many coordinates do not stay where they are."""
        return int(np.count_nonzero(self._indices != np.arange(len(self))))

    def inverse(self) -> Permutation:
        """Return the permutation that undoes this one: `p @ p.inverse()` is the identity."""
        return Permutation(np.argsort(self._indices))

    def act(self, x: Any, axis: int = 0) -> Any:
        """Return `x` (array or tensor) with its `axis` permuted; `x` itself is left as it was.

        Raises:
            ValueError: when there is no such axis, or it is not as long as the permutation.
        """
        if not -x.ndim <= axis < x.ndim:
            raise ValueError(f"there is no axis {axis}: the array has {x.ndim} axes")
        axis = axis % x.ndim
        if x.shape[axis] != len(self):
            raise ValueError(
                f"axis {axis} has {x.shape[axis]} coordinates, the permutation {len(self)}"
            )
        # The index is copied because torch warns about read-only numpy memory.
        return x[(slice(None),) * axis + (self._indices.copy(),)]

    def __matmul__(self, then: Permutation) -> Permutation:
        if len(self) != len(then):
            raise ValueError(
                f"cannot compose permutations of {len(self)} and {len(then)} coordinates"
            )
        return Permutation(self._indices[then._indices])

    def __getitem__(self, target: int) -> int:
        return int(self._indices[target])

    def __len__(self) -> int:
        return int(self._indices.size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Permutation) and np.array_equal(self._indices, other._indices)

    def __hash__(self) -> int:
        return hash(self._indices.tobytes())

    def __repr__(self) -> str:
        if len(self) <= 8:
            return f"Permutation({self._indices.tolist()})"
        return f"Permutation(<{len(self)} coordinates, {self.moved} moved>)"
