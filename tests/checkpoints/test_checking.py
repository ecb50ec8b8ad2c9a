from __future__ import annotations

import pytest
import torch
from torch import nn

from mergekit_perm import checkpoints
from mergekit_perm.errors import CheckpointError

torch.set_num_threads(1)

EXPECTED = {"a.weight": (2, 3), "a.bias": (2,), "n": ()}


def state(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    tensors = {name: torch.zeros(shape) for name, shape in EXPECTED.items()}
    for name, tensor in changes.items():
        key = name.replace("_", ".")
        if tensor is None:
            del tensors[key]
        else:
            tensors[key] = tensor
    return tensors


def refused(found: dict[str, torch.Tensor], expected: dict[str, tuple[int, ...]]) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoints.fit(found, expected, source="x.pth")
    return str(caught.value)


def test_shapes_of_a_module_and_of_its_state() -> None:
    module = nn.BatchNorm1d(3)
    expected = {
        "weight": (3,),
        "bias": (3,),
        "running_mean": (3,),
        "running_var": (3,),
        "num_batches_tracked": (),
    }
    assert checkpoints.shapes(module) == expected
    assert checkpoints.shapes(module.state_dict()) == expected


def test_what_fits_is_accepted() -> None:
    assert checkpoints.fit(state(), EXPECTED, source="x.pth") is None


def test_what_does_not_fit_is_listed() -> None:
    found = state(a_bias=None, a_bais=torch.zeros(2), a_weight=torch.zeros(3, 2))
    assert refused(found, EXPECTED) == (
        "x.pth does not fit the network:\n"
        "  1 missing:\n"
        "    a.bias\n"
        "  1 extra:\n"
        "    a.bais (did you mean 'a.bias'?)\n"
        "  1 of another shape:\n"
        "    a.weight: [3, 2] in the file, [2, 3] in the network"
    )


def test_a_scalar_is_not_a_vector_of_one() -> None:
    assert "n: [1] in the file, [] in the network" in refused(state(n=torch.zeros(1)), EXPECTED)


def test_ten_of_a_kind_are_shown() -> None:
    expected = {f"layer.{n}": (1,) for n in range(14)}
    lines = refused({"layer.0": torch.zeros(1), "layer.1": torch.zeros(1)}, expected).splitlines()
    assert lines[1] == "  12 missing:"
    assert lines[2:12] == [f"    layer.{n}" for n in range(2, 12)]
    assert lines[12:] == ["    (+2 more)"]


def test_another_architecture() -> None:
    assert refused({"stem.w": torch.zeros(1)}, {"conv1.weight": (1,)}).splitlines()[-1] == (
        "  no tensor has a name of this network: is it of another architecture?"
    )


def test_finite_numbers_are_accepted() -> None:
    found = {"a": torch.ones(2), "n": torch.tensor(3), "b": torch.tensor([True])}
    assert checkpoints.check_finite(found, source="x.pth") is None


def test_numbers_that_are_not_finite_are_counted() -> None:
    found = {
        "a": torch.tensor([1, float("nan"), float("nan")]),
        "b": torch.tensor([float("inf"), -float("inf"), float("nan"), 0], dtype=torch.bfloat16),
        "c": torch.ones(2),
    }
    with pytest.raises(CheckpointError) as caught:
        checkpoints.check_finite(found, source="x.pth")
    assert str(caught.value) == (
        "x.pth holds numbers that are not finite:\n"
        "  2 tensors:\n"
        "    a: 2 NaN, 0 infinite, of 3\n"
        "    b: 1 NaN, 2 infinite, of 4\n"
        "  was its training run diverging?"
    )


def test_the_hash_of_a_state_is_that_of_its_content() -> None:
    base = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "c": torch.ones(0)}
    first = checkpoints.state_sha256(base)
    assert len(first) == 64
    reordered = {name: base[name] for name in ("c", "b", "a")}
    assert checkpoints.state_sha256(reordered) == first
    strided = {**base, "a": base["a"].T.contiguous().T}
    assert not strided["a"].is_contiguous()
    assert checkpoints.state_sha256(strided) == first


@pytest.mark.parametrize(
    "change",
    [
        {"a": torch.arange(6.0).reshape(3, 2)},
        {"a": torch.arange(6.0, dtype=torch.float64).reshape(2, 3)},
        {"a": torch.arange(1.0, 7).reshape(2, 3)},
        {"b": torch.tensor(4)},
        {"d": torch.ones(0)},
    ],
)
def test_the_hash_of_a_state_depends_on(change: dict[str, torch.Tensor]) -> None:
    base = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}
    assert checkpoints.state_sha256({**base, **change}) != checkpoints.state_sha256(base)


def test_the_hash_of_a_state_depends_on_names_not_only_on_values() -> None:
    a, b = torch.ones(2), torch.zeros(2)
    swapped = checkpoints.state_sha256({"a": b, "b": a})
    assert checkpoints.state_sha256({"a": a, "b": b}) != swapped
    assert checkpoints.state_sha256({"a": a}) != checkpoints.state_sha256({"aa": a})
