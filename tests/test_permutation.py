from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.permutation import Permutation
from tests.strategies import LAW

SIZES = st.integers(0, 12)


def permutations(size: int) -> st.SearchStrategy[Permutation]:
    return st.permutations(range(size)).map(Permutation)


def test_the_index_is_the_source_of_the_target() -> None:
    p = Permutation([2, 0, 1])
    assert p.act(np.array(["a", "b", "c"])).tolist() == ["c", "a", "b"]
    assert p[0] == 2
    assert isinstance(p[0], int)
    assert list(p) == [2, 0, 1]


def test_composition_reads_from_left_to_right() -> None:
    p, q = Permutation([1, 2, 0]), Permutation([1, 0, 2])
    assert p @ q == Permutation([2, 1, 0])
    assert q @ p == Permutation([0, 2, 1])


@LAW
@given(st.data(), SIZES)
def test_acting_with_a_product_is_acting_twice(data: st.DataObject, size: int) -> None:
    p, q = data.draw(permutations(size)), data.draw(permutations(size))
    x = np.arange(size) * 10
    assert np.array_equal((p @ q).act(x), q.act(p.act(x)))
    assert np.array_equal(p.act(x), x[p.indices])


@LAW
@given(st.data(), SIZES)
def test_group_laws(data: st.DataObject, size: int) -> None:
    p, q, r = (data.draw(permutations(size)) for _ in range(3))
    still = Permutation.identity(size)
    assert p @ p.inverse() == still == p.inverse() @ p
    assert p @ still == p == still @ p
    assert (p @ q) @ r == p @ (q @ r)
    assert (p @ q).inverse() == q.inverse() @ p.inverse()
    assert p.inverse().inverse() == p


@LAW
@given(st.data(), st.integers(1, 6), st.integers(-3, 2))
def test_act_permutes_the_axis_asked_for_of_arrays_and_tensors(
    data: st.DataObject, size: int, axis: int
) -> None:
    p = data.draw(permutations(size))
    shape = [2, 3, 4]
    shape[axis] = size
    array = np.arange(np.prod(shape)).reshape(shape)
    expected = np.take(array, p.indices, axis=axis)
    assert np.array_equal(p.act(array, axis=axis), expected)
    tensor = torch.from_numpy(array)
    assert torch.equal(p.act(tensor, axis=axis), torch.from_numpy(expected))


def test_act_returns_new_memory() -> None:
    for x in (np.arange(3), torch.arange(3)):
        y = Permutation.identity(3).act(x)
        y[0] = 9
        assert x.tolist() == [0, 1, 2]


def test_act_refuses_an_axis_of_another_length() -> None:
    with pytest.raises(ValueError, match=r"^axis 1 has 3 coordinates, the permutation 2$"):
        Permutation([1, 0]).act(np.zeros((2, 3)), axis=1)
    with pytest.raises(ValueError, match=r"^axis 1 has 3 coordinates, the permutation 2$"):
        Permutation([1, 0]).act(np.zeros((2, 3)), axis=-1)


@pytest.mark.parametrize("axis", [2, -3])
def test_act_refuses_an_axis_that_is_not_there(axis: int) -> None:
    with pytest.raises(ValueError, match=rf"^there is no axis {axis}: the array has 2 axes$"):
        Permutation([1, 0]).act(np.zeros((2, 2)), axis=axis)


def test_act_refuses_a_scalar() -> None:
    with pytest.raises(ValueError, match=r"^there is no axis 0: the array has 0 axes$"):
        Permutation([0]).act(torch.tensor(1.0))


@pytest.mark.parametrize("wrong", [[0, 0], [1, 2], [-1, 0], [0, 2, 3]])
def test_what_is_no_permutation_is_refused(wrong: list[int]) -> None:
    with pytest.raises(ValueError) as caught:
        Permutation(wrong)
    assert str(caught.value) == (
        f"not a permutation of 0..{len(wrong) - 1}: an index repeats or is out of range"
    )


@pytest.mark.parametrize(
    ("wrong", "dtype", "shape"),
    [
        ([0.0, 1.0], "float64", "(2,)"),
        ([False, True], "bool", "(2,)"),
        ([[0, 1]], "int64", "(1, 2)"),
        (np.array(0), "int64", "()"),
        (["0", "1"], "<U1", "(2,)"),
    ],
)
def test_other_types_and_shapes_are_refused(wrong: object, dtype: str, shape: str) -> None:
    with pytest.raises(ValueError) as caught:
        Permutation(wrong)  # type: ignore[arg-type]
    assert (
        str(caught.value)
        == f"a permutation is a list of whole numbers, not {dtype} of shape {shape}"
    )


def test_compose_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match=r"^cannot compose permutations of 2 and 3 coordinates$"):
        Permutation([1, 0]) @ Permutation([0, 1, 2])


def test_a_permutation_keeps_its_own_read_only_copy() -> None:
    given_ = np.array([1, 0, 2])
    p = Permutation(given_)
    given_[:] = 0, 1, 2
    assert p == Permutation([1, 0, 2])
    assert p.indices.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        p.indices[0] = 0


def test_generators_and_unsigned_arrays_are_accepted() -> None:
    assert Permutation(i for i in (1, 0)) == Permutation(np.array([1, 0], dtype=np.uint8))
    assert len(Permutation([])) == 0


def test_moved_counts_what_does_not_stay() -> None:
    assert Permutation.identity(5).moved == 0
    assert Permutation([0, 2, 1, 3]).moved == 2
    assert Permutation([1, 2, 0]).moved == 3


def test_equality_and_hash_go_by_content() -> None:
    p = Permutation([1, 0])
    assert p == Permutation([1, 0])
    assert hash(p) == hash(Permutation([1, 0]))
    assert p != Permutation([0, 1])
    assert p != Permutation([1, 0, 2])
    assert p != [1, 0]
    assert len({p, Permutation([1, 0]), Permutation([0, 1])}) == 2


def test_repr_shows_short_ones_and_counts_long_ones() -> None:
    assert repr(Permutation([1, 0, 2])) == "Permutation([1, 0, 2])"
    assert repr(Permutation.identity(8)) == "Permutation([0, 1, 2, 3, 4, 5, 6, 7])"
    assert repr(Permutation([1, 0, *range(2, 9)])) == "Permutation(<9 coordinates, 2 moved>)"


def test_random_is_uniform_and_decided_by_the_generator() -> None:
    def draw(seed: int) -> Permutation:
        return Permutation.random(20, generator=np.random.default_rng(seed))

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
    generator = np.random.default_rng(0)
    counts: dict[Permutation, int] = {}
    for _ in range(1200):
        p = Permutation.random(3, generator=generator)
        counts[p] = counts.get(p, 0) + 1
    assert len(counts) == 6
    assert all(140 < count < 260 for count in counts.values())
