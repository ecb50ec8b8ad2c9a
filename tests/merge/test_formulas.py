"""Every recipe against its formula, written again in plain numpy and loops, and by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_perm.merge import RECIPES
from mergekit_perm.merge.sparsify import largest

Array = np.ndarray[Any, np.dtype[np.float64]]
LAW = settings(max_examples=25, deadline=None)
SHAPES = [(), (5,), (3, 4), (2, 3, 2, 2)]


def problem(seed: int, shape: tuple[int, ...], count: int = 3) -> tuple[list[Array], Array]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for _ in range(count)], rng.normal(size=shape)


def of(method: str, arrays: Sequence[Array], **options: Any) -> Array:
    """What a recipe makes of arrays."""
    tensors = [torch.tensor(array) for array in arrays]
    given = {k: torch.tensor(v) if k == "base" and v is not None else v for k, v in options.items()}
    return np.asarray(RECIPES[method](tensors, **given))


def by_hand(method: str, arrays: list[list[float]], **options: Any) -> list[float]:
    base = options.pop("base", None)
    extra = {} if base is None else {"base": np.array(base, dtype=float)}
    merged = of(method, [np.array(a, dtype=float) for a in arrays], **extra, **options)
    return [round(float(x), 6) for x in merged]


# ------------------------------------------------------------------------------------- by hand


def test_task_arithmetic_by_hand() -> None:
    arrays, base = [[3.0, 1.0], [2.0, 5.0]], [1.0, 1.0]
    assert by_hand("task_arithmetic", arrays, base=base) == [4.0, 5.0]
    options = {"weight": [1, 3], "lambda_": 2.0, "normalize": True}
    assert by_hand("task_arithmetic", arrays, base=base, **options) == [3.5, 7.0]


def test_ties_by_hand() -> None:
    # Half of four is two: a keeps 4 and -3, b keeps -5 and 2.
    arrays = [[4.0, 1.0, -3.0, 0.5], [-5.0, 0.1, 1.0, 2.0]]
    options = {"base": [0.0] * 4, "density": 0.5}
    assert by_hand("ties", arrays, **options) == [-5.0, 0.0, -3.0, 2.0]
    # With three times the weight a wins the first place.
    assert by_hand("ties", arrays, weight=[3, 1], **options) == [4.0, 0.0, -3.0, 2.0]
    # a: 8.5 / 7, b: 8.1 / 7.
    rescaled = by_hand("ties", arrays, rescale=True, **options)
    assert rescaled == [-5.785714, 0.0, -3.642857, 2.314286]
    # At density 1 what agrees is averaged: (1 + 0.1) / 2, (0.5 + 2) / 2; or added up.
    assert by_hand("ties", arrays, base=[0.0] * 4) == [-5.0, 0.55, -3.0, 1.25]
    assert by_hand("ties", arrays, base=[0.0] * 4, normalize=False) == [-5.0, 1.1, -3.0, 2.5]


def test_a_tied_vote_is_for_plus() -> None:
    assert by_hand("ties", [[2.0], [-2.0]], base=[0.0]) == [2.0]


def test_negative_weights_turn_a_vector_round() -> None:
    # 0.6 * 1 and -0.3 * -7 are both positive: 2.7 / 0.3.
    assert by_hand("ties", [[1.0], [-7.0]], base=[0.0], weight=[0.6, -0.3]) == [9.0]


def test_breadcrumbs_by_hand() -> None:
    arrays, base = [[1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0]], [0.0] * 7
    # Three of seven are half; one is a fifth: 7 goes, and 1, 2 and 3.
    thinned = by_hand("breadcrumbs", arrays, base=base, density=0.5, gamma=0.2)
    assert thinned == [0, 0, 0, -4, 5, -6, 0]
    # There is no room for two to go when six stay.
    assert by_hand("breadcrumbs", arrays, base=base, density=0.9, gamma=0.3)[-2:] == [-6, 0]
    assert by_hand("breadcrumbs", arrays, base=base) == arrays[0]
    rescaled = by_hand("breadcrumbs", arrays, base=base, density=0.5, gamma=0.2, rescale=True)
    assert rescaled[4] == round(5 * 28 / 15, 6)
    several = by_hand("breadcrumbs_ties", [[1.0, -2], [-3.0, -4]], base=[0.0, 0])
    assert several == [-3.0, -6.0]


@pytest.mark.parametrize(("density", "kept"), [(0.57, 57), (0.005, 1), (0.0, 0), (1.0, 100)])
def test_how_many_are_kept(density: float, kept: int) -> None:
    merged = of("ties", [np.arange(1.0, 101)], base=np.zeros(100), density=density)
    assert np.count_nonzero(merged) == kept


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9), st.data())
def test_of_equal_elements_the_first_are_kept(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(values)))
    order = sorted(range(len(values)), key=lambda i: -values[i])  # which keeps the order of equals
    mask = largest(torch.tensor(values, dtype=torch.float64), count)
    assert mask.tolist() == [i in order[:count] for i in range(len(values))]


def test_slerp_by_hand() -> None:
    # At a right angle the factors are cos and sin of t of it.
    merged = by_hand("slerp", [[0.0, 10.0]], base=[3.0, 0.0], t=0.3)
    assert merged == [
        round(3 * math.cos(0.15 * math.pi), 6),
        round(10 * math.sin(0.15 * math.pi), 6),
    ]
    # cos 45° is 1 / sqrt 2; the point in the middle keeps the length.
    assert by_hand("slerp", [[1.0, 1.0]], base=[math.sqrt(2), 0.0], t=0.5) == [
        round(math.sqrt(2) * math.cos(math.pi / 8), 6),
        round(math.sqrt(2) * math.sin(math.pi / 8), 6),
    ]


@pytest.mark.parametrize(
    ("base", "other"),
    [
        ([0.0, 0.0], [1.0, 2.0]),
        ([1.0, 2.0], [0.0, 0.0]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([1.0, 2.0], [-2.0, -4.0]),
        ([1.0, 2.0], [3.0, 6.0001]),
    ],
)
@pytest.mark.parametrize("method", ["slerp", "nuslerp"])
def test_where_there_is_no_arc_the_line_is_straight(
    method: str, base: list[float], other: list[float]
) -> None:
    if method == "slerp":
        merged = by_hand("slerp", [other], base=base, t=0.3)
    else:
        merged = by_hand("nuslerp", [base, other], weight=[0.7, 0.3])
    straight = [0.7 * b + 0.3 * o for b, o in zip(base, other, strict=True)]
    assert merged == pytest.approx(straight, abs=2e-4)


def test_nuslerp_by_rows_and_columns() -> None:
    first, second = np.array([[3.0, 0], [1, 2]]), np.array([[0.0, 10], [5, 1]])
    arc = [[3 * math.cos(3 * math.pi / 8), 10 * math.sin(3 * math.pi / 8)]]
    merged = of("nuslerp", [first, second], weight=[1, 3], nuslerp_flatten=False)
    np.testing.assert_allclose(merged[:1], arc)
    columns = of(
        "nuslerp", [first, second], weight=[1, 3], nuslerp_flatten=False, nuslerp_row_wise=True
    )
    by_rows = of("nuslerp", [first.T, second.T], weight=[1, 3], nuslerp_flatten=False)
    np.testing.assert_allclose(columns, by_rows.T)
    # A vector is always one vector.
    flat = [of("nuslerp", [first[0], second[0]], nuslerp_flatten=f) for f in (False, True)]
    np.testing.assert_array_equal(*flat)


def test_model_stock_by_hand() -> None:
    # Task vectors at 60°: c = 1/2, t = 2 * 0.5 / 1.5 = 2/3, half way each.
    arrays = [[2.0, 0.0], [1.0, math.sqrt(3)]]
    assert by_hand("model_stock", arrays, base=[0.0, 0.0]) == [1.0, round(1 / math.sqrt(3), 6)]
    # Opposite ones have nothing in common.
    assert by_hand("model_stock", [[2.0, 0.0], [-1.0, 0.0]], base=[0.0, 0.0]) == [0.0, 0.0]


def test_ram_by_hand() -> None:
    arrays = [[1.0, 2, 0, 0, 5, 1e-6], [3.0, 0, 4, 0, 1, 0], [-1.0, 0, 0, 0, 2, 0]]
    base = [0.0] * 6
    assert by_hand("ram", arrays, base=base) == [1.0, 2.0, 4.0, 0.0, round(8 / 3, 6), 0.0]
    # The first two share two elements and have one of their own: 1 + r min(2, alpha).
    plus = by_hand("ramplus_tl", arrays, base=base, r=1.0, alpha=9.0)
    assert plus == [1.0, 6.0, 12.0, 0.0, round(8 / 3, 6), 0.0]
    assert by_hand("ramplus_tl", arrays, base=base)[1:3] == [2.04, 4.08]


def test_sce_by_hand() -> None:
    # The sign is elected with equal votes; 2 - 3 < 0, though the first weighs more.
    assert by_hand("sce", [[2.0, 10.0], [-3.0, 0.5]], base=[0.0, 0.0])[0] == -3.0
    # Variances 16, 4, 0: one third is the first element.
    assert by_hand("sce", [[4.0, 2, 1], [-4.0, -2, 1]], base=[0.0] * 3, select_topk=0.34) == [
        4,
        0,
        0,
    ]
    # What does not vary is never selected.
    assert by_hand("sce", [[4.0, 2, 1], [4.0, 2, 1]], base=[0.0] * 3, select_topk=0.9) == [0, 0, 0]


def test_passthrough() -> None:
    assert by_hand("passthrough", [[1.5, -2.0]], scale=2.0) == [3.0, -4.0]


def test_directions_that_cancel_have_a_plain_mean() -> None:
    for method in ("karcher", "multislerp"):
        assert by_hand(method, [[1.0, 2.0], [-2.0, -4.0]]) == [-0.5, -1.0]
        assert by_hand(method, [[0.0, 0.0], [0.0, 0.0]]) == [0.0, 0.0]


# ------------------------------------------------------------------------------------- oracles


def trimmed(vector: Array, density: float, gamma: float = 0.0) -> Array:
    """Keep what is neither among the largest nor the smallest; one element after another."""
    kept = max(int(density * vector.size + 1e-9), 1)
    order = sorted(range(vector.size), key=lambda i: -abs(vector.flat[i]))
    top = min(int(gamma * vector.size + 1e-9), vector.size - kept)
    result = np.zeros(vector.shape)
    for i in order[top : top + kept]:
        result.flat[i] = vector.flat[i]
    return result


def elected(vectors: Sequence[Array], weights: Sequence[float], *, normalize: bool) -> Array:
    """The agreeing sum, one element after another."""
    result = np.zeros(vectors[0].shape)
    for i in range(result.size):
        terms = [(v.flat[i] * w, w) for v, w in zip(vectors, weights, strict=True)]
        sign = 1 if sum(term for term, _ in terms) >= 0 else -1
        part = [(term, w) for term, w in terms if term * sign > 0]
        share = sum(w for _, w in part) if normalize and part else 1.0
        result.flat[i] = sum(term for term, _ in part) / share
    return result


@LAW
@given(st.integers(0, 999), st.sampled_from(SHAPES), st.booleans())
def test_trimmed_and_elected(seed: int, shape: tuple[int, ...], normalize: bool) -> None:
    arrays, base = problem(seed, shape)
    weights, densities, gammas = [0.5, 1.5, 1.0], [0.3, 0.6, 1.0], [0.1, 0.2, 0.3]
    vectors = [array - base for array in arrays]
    common = {"base": base, "weight": weights, "density": densities, "lambda_": 0.7}
    thin = [trimmed(v, d) for v, d in zip(vectors, densities, strict=True)]
    np.testing.assert_allclose(
        of("ties", arrays, normalize=normalize, **common),
        base + 0.7 * elected(thin, weights, normalize=normalize),
    )
    middles = [trimmed(v, d, g) for v, d, g in zip(vectors, densities, gammas, strict=True)]
    np.testing.assert_allclose(
        of("breadcrumbs_ties", arrays, normalize=normalize, gamma=gammas, **common),
        base + 0.7 * elected(middles, weights, normalize=normalize),
    )
    total = sum(w * m for w, m in zip(weights, middles, strict=True)) / (3 if normalize else 1)
    np.testing.assert_allclose(
        of("breadcrumbs", arrays, normalize=normalize, gamma=gammas, **common), base + 0.7 * total
    )


@LAW
@given(st.integers(0, 999), st.sampled_from([(5,), (3, 4), (2, 3, 2, 2)]))
def test_model_stock(seed: int, shape: tuple[int, ...]) -> None:
    arrays, base = problem(seed, shape)
    arrays = [array + 2 for array in arrays]  # towards one side, so that cosines are above 0
    vectors = [array - base for array in arrays]

    def merged(parts: list[Array], origin: Array) -> Array:
        cosines = [
            float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))
            for a, b in itertools.combinations(parts, 2)
        ]
        c = max(float(np.mean(cosines)), 0.0)
        t = 3 * c / (1 + 2 * c)
        return t * np.mean([origin + part for part in parts], axis=0) + (1 - t) * origin

    np.testing.assert_allclose(of("model_stock", arrays, base=base), merged(vectors, base))
    if len(shape) > 1:
        rows = [merged([v[i] for v in vectors], base[i]) for i in range(shape[0])]
        np.testing.assert_allclose(of("model_stock", arrays, base=base, filter_wise=True), rows)


@LAW
@given(st.integers(0, 999), st.sampled_from(SHAPES[1:]))
def test_the_karcher_mean_is_where_arcs_cancel(seed: int, shape: tuple[int, ...]) -> None:
    arrays, _ = problem(seed, shape)
    arrays = [array + 1 for array in arrays]
    merged = of("karcher", arrays, max_iter=1000, tol=1e-13)

    lengths = [np.linalg.norm(a) for a in arrays]
    assert np.linalg.norm(merged) == pytest.approx(np.mean(lengths))
    middle = merged / np.linalg.norm(merged)
    pull = np.zeros(shape)
    for array, length in zip(arrays, lengths, strict=True):
        cosine = float((middle * array).sum() / length)
        side = array / length - cosine * middle
        if np.linalg.norm(side) > 0:
            pull += math.acos(min(max(cosine, -1), 1)) * side / np.linalg.norm(side)
    assert np.linalg.norm(pull) < 1e-6


@LAW
@given(st.integers(0, 999), st.sampled_from(SHAPES[1:]), st.booleans())
def test_multislerp(seed: int, shape: tuple[int, ...], has_base: bool) -> None:
    arrays, origin = problem(seed, shape)
    base = origin if has_base else None
    vectors = [array - origin if has_base else array for array in arrays]
    weights = [0.2, 0.5, 0.3]
    middle = sum(w * v / np.linalg.norm(v) for w, v in zip(weights, vectors, strict=True))
    length = sum(w * np.linalg.norm(v) for w, v in zip(weights, vectors, strict=True))
    expected = middle / np.linalg.norm(middle) * length
    shift = origin if has_base else 0
    np.testing.assert_allclose(
        of("multislerp", arrays, weight=weights, base=base), shift + expected
    )
    scaled = [3 * w for w in weights]
    np.testing.assert_allclose(of("multislerp", arrays, weight=scaled, base=base), shift + expected)
    longer = of("multislerp", arrays, weight=scaled, base=base, normalize_weights=False)
    np.testing.assert_allclose(longer, shift + 3 * expected)


@LAW
@given(st.integers(0, 999), st.sampled_from(SHAPES), st.sampled_from([1.0, 0.5]))
def test_sce(seed: int, shape: tuple[int, ...], share: float) -> None:
    arrays, base = problem(seed, shape)
    vectors = [array - base for array in arrays]
    variance = np.var(vectors, axis=0)
    keep = np.zeros(shape)
    for i in sorted(range(variance.size), key=lambda i: -variance.flat[i])[
        : max(int(share * variance.size), 1)
    ]:
        keep.flat[i] = 1
    vectors = [v * keep for v in vectors]
    squares = [float((v * v).sum()) for v in vectors]
    expected = np.array(base)
    for i in range(base.size):
        sign = 1 if sum(v.flat[i] for v in vectors) >= 0 else -1
        part = [
            (s, v.flat[i]) for s, v in zip(squares, vectors, strict=True) if v.flat[i] * sign > 0
        ]
        if part:
            expected.flat[i] += sum(s * x for s, x in part) / sum(s for s, _ in part)
    np.testing.assert_allclose(of("sce", arrays, base=base, select_topk=share), expected)


# -------------------------------------------------------------------------------------- chance


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare_drops_by_chance_and_divides_by_it(method: str) -> None:
    vector = np.arange(1.0, 20001.0)
    merged = of(method, [vector], base=np.zeros(20000), density=0.3, generators=generators(1))
    kept = merged != 0
    assert kept.mean() == pytest.approx(0.3, abs=0.015)
    np.testing.assert_allclose(merged[kept], vector[kept] / 0.3)
    plain = of(
        method, [vector], base=np.zeros(20000), density=0.3, generators=generators(1), rescale=False
    )
    np.testing.assert_allclose(plain[kept], vector[kept])
    assert not plain[~kept].any()


@pytest.mark.parametrize("method", ["della", "della_linear"])
def test_della_keeps_large_elements_more_often(method: str) -> None:
    rng = np.random.default_rng(0)
    vector = np.stack([rng.permutation(np.arange(1.0, 6.0)) for _ in range(20000)])
    options: dict[str, Any] = {"base": np.zeros(vector.shape), "density": 0.4, "epsilon": 0.2}
    merged = of(method, [vector], generators=generators(1), **options)
    for value, chance in zip(range(1, 6), (0.2, 0.3, 0.4, 0.5, 0.6), strict=True):
        found = merged[vector == value]
        assert (found != 0).mean() == pytest.approx(chance, abs=0.015)
        np.testing.assert_allclose(found[found != 0], value / chance)


def test_a_row_of_one_is_kept_with_the_mean_chance() -> None:
    options: dict[str, Any] = {"base": np.zeros((20000, 1)), "density": 0.4, "epsilon": 0.4}
    merged = of("della_linear", [np.ones((20000, 1))], generators=generators(1), **options)
    assert (merged != 0).mean() == pytest.approx(0.4, abs=0.015)
