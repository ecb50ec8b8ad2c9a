from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.align.assignment import assign, assign_blocks, gathered
from tests.strategies import LAW


def worth(similarity: np.ndarray, choice: np.ndarray | tuple[int, ...]) -> float:
    return float(sum(similarity[i, j] for i, j in enumerate(choice)))


@LAW
@given(st.integers(0, 5), st.integers(0, 2**16))
def test_assign_gathers_the_most(size: int, seed: int) -> None:
    similarity = np.random.default_rng(seed).standard_normal((size, size))
    found = assign(similarity)
    assert found.dtype == np.int64
    assert sorted(found) == list(range(size))
    best = max(worth(similarity, order) for order in itertools.permutations(range(size)))
    assert worth(similarity, found) == pytest.approx(best)


def test_assign_is_in_gather_form() -> None:
    # Element 0 of the reference is like element 2 of the network, and so on.
    assert assign(np.array([[0, 0, 9], [9, 0, 0], [0, 9, 0]], dtype=float)).tolist() == [2, 0, 1]


@LAW
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(0, 2**16))
def test_assign_blocks_solves_every_pair(a: int, b: int, size: int, seed: int) -> None:
    similarity = np.random.default_rng(seed).standard_normal((a, size, b, size))
    found = assign_blocks(similarity)
    value = gathered(similarity, found)
    assert found.shape == (a, b, size)
    assert value.shape == (a, b)
    for x, y in itertools.product(range(a), range(b)):
        assert found[x, y].tolist() == assign(similarity[x, :, y]).tolist()
        assert value[x, y] == pytest.approx(worth(similarity[x, :, y], found[x, y]))
