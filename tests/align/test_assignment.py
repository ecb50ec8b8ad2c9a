from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from mergekit_perm.align import assignment
from mergekit_perm.align.assignment import assign, assign_blocks, gathered
from tests.strategies import LAW

SIMILARITIES = ("random", "rounded", "few directions", "dead", "equal")


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
@given(st.sampled_from(SIMILARITIES), st.integers(0, 2**16))
def test_many_elements_find_the_best_by_way_of_prices(kind: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    size = int(generator.integers(2, 60))
    similarity = generator.standard_normal((size, size))
    match kind:
        case "rounded":
            similarity = similarity.round()
        case "few directions":
            similarity = similarity[:, :2] @ generator.standard_normal((2, size))
        case "dead":
            similarity[generator.random(size) < 0.5] = 0.0
        case "equal":
            similarity[:] = 1.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment, "_MANY", 2)
        found = assign(similarity)
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    assert sorted(found) == list(range(size))
    assert worth(similarity, found) == pytest.approx(float(similarity[rows, columns].sum()))


def test_prices_leave_few_rows_without_a_cheapest_column_of_their_own() -> None:
    cost = np.random.default_rng(0).random((1024, 1024))
    left = []
    for asked in (cost, cost + assignment._prices(cost)):
        cheapest = asked <= asked.min(axis=1, keepdims=True) + 1e-12
        owned = maximum_bipartite_matching(csr_array(cheapest), perm_type="column") >= 0
        left.append(1024 - int(owned.sum()))
    assert left[0] > 300
    assert left[1] <= 0.05 * 1024


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
