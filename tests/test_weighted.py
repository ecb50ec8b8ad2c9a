from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.weighted import mismatch, weighted_sum

NARROW = [torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("dtype", NARROW)
def test_the_sum_is_taken_in_float64_and_rounded_once(dtype: torch.dtype) -> None:
    parts = [
        torch.tensor([1.0, -3.0, 0.1], dtype=dtype),
        torch.tensor([2.0, 5.0, 0.7], dtype=dtype),
    ]

    total = weighted_sum(parts, [0.3, 0.7])

    expected = [
        0.3 * a + 0.7 * b for a, b in zip(*(p.double().tolist() for p in parts), strict=True)
    ]
    assert total.dtype == dtype
    assert torch.equal(total, torch.tensor(expected, dtype=torch.float64).to(dtype))


def test_many_small_float32_terms_do_not_pile_up_rounding() -> None:
    one = torch.ones(1)

    assert weighted_sum([one] * 1001, [1.0] + [2.0**-30] * 1000).item() == pytest.approx(
        1 + 1000 * 2.0**-30, abs=1e-7
    )
    assert weighted_sum([one] * 1001, [1.0] + [2.0**-30] * 1000).item() > 1.0


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1), st.integers(1, 23))
def test_a_mix_of_a_tensor_with_itself_is_that_tensor(values: list[float], part: int) -> None:
    x = torch.tensor(values)

    assert torch.equal(weighted_sum([x, x.clone()], [1 - part / 24, part / 24]), x)


def test_a_lone_weight_of_one_copies_and_reads_nothing_else() -> None:
    broken = torch.tensor([math.inf, math.nan])
    kept = torch.tensor([-0.0, 1e-45])

    copy = weighted_sum([broken, kept], [0.0, 1.0])

    assert torch.equal(copy, kept) and math.copysign(1, copy[0].item()) == -1
    assert copy.data_ptr() != kept.data_ptr()


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_counters_come_from_the_first_tensor_with_a_weight(dtype: torch.dtype) -> None:
    parts = [torch.tensor(value, dtype=dtype) for value in (0, 1, 0)]

    assert weighted_sum(parts, [0.0, 0.25, 0.75]).item() == 1
    assert weighted_sum(parts, [0.5, 0.5, 0.0]).item() == 0
    assert weighted_sum(parts, [0.5, 0.5, 0.0]).dtype == dtype


def test_weights_of_zero_alone_give_zero() -> None:
    assert torch.equal(weighted_sum([torch.tensor([3.0, math.inf])], [0.0]), torch.zeros(2))


def test_complex_tensors_are_summed() -> None:
    assert weighted_sum([torch.tensor(2 + 4j), torch.tensor(4 - 2j)], [0.5, 0.5]).item() == 3 + 1j


def test_out_is_written_in_its_own_dtype_and_inputs_are_left() -> None:
    parts = [
        torch.tensor([1.0, 2.0], dtype=torch.float64),
        torch.tensor([3.0, 6.0], dtype=torch.float64),
    ]
    out = torch.empty(2, dtype=torch.float32)

    assert weighted_sum(parts, [0.5, 0.5], out=out) is out
    assert out.tolist() == [2.0, 4.0]
    assert [p.tolist() for p in parts] == [[1.0, 2.0], [3.0, 6.0]]


def test_one_weight_per_tensor() -> None:
    with pytest.raises(ValueError, match="zip"):
        weighted_sum([torch.ones(1)], [0.5, 0.5])


def test_mismatch_names_the_first_difference() -> None:
    a = {"w": torch.ones(2, 3), "b": torch.ones(2)}

    assert mismatch({"a": a}) == ""
    assert mismatch({"a": a, "b": {k: v * 2 for k, v in a.items()}}) == ""
    assert mismatch({"a": a, "b": {"w": a["w"]}}) == "'b' has no tensor 'b', which 'a' has"
    assert mismatch({"a": a, "b": {**a, "c": a["b"]}}) == "'b' has a tensor 'c', which 'a' has not"
    assert mismatch({"a": a, "b": {**a, "w": torch.ones(3, 2)}}) == (
        "tensor 'w' is (3, 2) in 'b' and (2, 3) in 'a'"
    )


@pytest.mark.parametrize("size", [2, 80])  # one part, and several
def test_any_layout_in_memory_will_do(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = [torch.randn(3, 4, size, size, generator=generator) for _ in range(2)]
    expected = (0.25 * plain[0].double() + 0.75 * plain[1].double()).float()
    last = [tensor.to(memory_format=torch.channels_last) for tensor in plain]
    turned = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in plain]
    for tensors in (last, turned, [plain[0], last[1]], [turned[0], last[1]]):
        assert torch.equal(weighted_sum(tensors, [0.25, 0.75]), expected)
        for out in (torch.full_like(plain[0], 7.0), torch.full_like(last[0], 7.0)):
            assert weighted_sum(tensors, [0.25, 0.75], out=out) is out
            assert torch.equal(out, expected)


def test_numbers_of_eight_bits_are_summed() -> None:
    tensors = [torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn) for _ in range(2)]
    total = weighted_sum(tensors, [0.5, 1.5])
    assert total.dtype == torch.float8_e4m3fn and total.float().tolist() == [2.0, 4.0]
