"""The proof of a permutation spec: what holds passes, what does not is named."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from mergekit_perm import derive, networks
from mergekit_perm.derive.trial import Trial
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.permspec import PermutationSpec

torch.set_num_threads(1)

TWO_LAYERS = """
format: perm-merge/permspec@1
groups: {hidden: 6}
axes:
  0.weight: [hidden, 4]
  0.bias: [hidden]
  1.*: [hidden]
  3.weight: [2, hidden]
"""


def network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    return module, torch.randn(5, 4)


def verify(text: str) -> derive.Proof:
    return derive.verify(PermutationSpec.loads(text), *network())


def test_a_correct_spec_is_proven_with_its_figures() -> None:
    proof = verify(TWO_LAYERS)
    assert proof.difference < 1e-14
    assert proof.controls.keys() == {"hidden"} and proof.controls["hidden"] > 1e-3
    assert proof.sizes == {"hidden": 6}
    # Of 4*6 + 6 + 6 + 6 + 2*6 + 2 parameter elements only the last bias of 2 is fixed.
    assert proof.coverage == pytest.approx(54 / 56)


def test_forgotten_running_statistics_are_found_in_eval_mode() -> None:
    forgotten = TWO_LAYERS.replace(
        "  1.*: [hidden]\n", "  1.weight: [hidden]\n  1.bias: [hidden]\n"
    )
    with pytest.raises(PermutationSpecError, match="changes the function") as error:
        verify(forgotten)
    assert "hidden (" in str(error.value) and "0.weight" in str(error.value)


@pytest.mark.parametrize("dropped", ["  0.bias: [hidden]\n", "  3.weight: [2, hidden]\n"])
def test_a_dropped_axis_is_found(dropped: str) -> None:
    with pytest.raises(PermutationSpecError, match="changes the function"):
        verify(TWO_LAYERS.replace(dropped, ""))


def test_permuted_class_outputs_are_found() -> None:
    text = TWO_LAYERS.replace("groups: {hidden: 6}", "groups: {hidden: 6, classes: 2}")
    text = text.replace("3.weight: [2, hidden]", "3.weight: [classes, hidden]\n  3.bias: [classes]")
    with pytest.raises(PermutationSpecError, match="classes \\(") as error:
        verify(text)
    assert "hidden (" not in str(error.value)


class Idle(nn.Module):
    """Has a layer that its forward does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


def test_a_group_that_moves_nothing_cannot_pass() -> None:
    text = """
format: perm-merge/permspec@1
groups: {unused: 4}
axes:
  idle.weight: [unused, 3]
  idle.bias: [unused]
"""
    with pytest.raises(PermutationSpecError, match="group 'unused' moves nothing"):
        derive.verify(PermutationSpec.loads(text), Idle(), torch.randn(2, 3))


def test_a_group_that_nothing_reads_is_named_where_others_are_controlled() -> None:
    text = """
format: perm-merge/permspec@1
groups: {hidden: 6, unused: 4}
axes:
  0.0.weight: [hidden, 3]
  0.0.bias: [hidden]
  0.1.weight: [3, hidden]
  1.idle.weight: [unused, 3]
  1.idle.bias: [unused]
"""
    module = nn.Sequential(nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 3)), Idle())
    proof = derive.verify(PermutationSpec.loads(text), module, torch.randn(2, 3))
    assert proof.unread == ["unused"] and proof.controls.keys() == {"hidden"}
    assert proof.controls["hidden"] > 1e-6


def test_a_change_that_may_be_rounding_has_to_go_away_with_other_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = sys.modules["mergekit_perm.derive.verify"]
    compare = module._compare
    seen: list[torch.Tensor] = []

    def unlucky(trial: Trial, *rest: Any) -> dict[bool, float]:
        changes: dict[bool, float] = compare(trial, *rest)
        seen.append(trial.tensors["0.weight"].detach().clone())
        return {**changes, False: 5e-9} if len(seen) <= bad_luck else changes

    monkeypatch.setattr(module, "_compare", unlucky)
    bad_luck = 2
    assert verify(TWO_LAYERS).difference < 1e-13
    assert len(seen) == 5 and not seen[0].sum().isclose(seen[1].sum())
    seen, bad_luck = [], 3
    with pytest.raises(PermutationSpecError, match=r"outputs differ by 5\.0e-09"):
        verify(TWO_LAYERS)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("share", [1e-7, 1e-8])
def test_a_fault_as_small_as_rounding_is_found_on_all_weights(share: float, seed: int) -> None:
    class Whispering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.loud, self.low = nn.Linear(3, 6), nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.first(x).relu()
            return self.loud(hidden) + share * self.low(hidden)

    text = """
format: perm-merge/permspec@1
groups: {hidden: 6}
axes:
  first.weight: [hidden, 3]
  first.bias: [hidden]
  loud.weight: [2, hidden]
  low.weight: [2, hidden]
"""
    derive.verify(PermutationSpec.loads(text), Whispering(), torch.randn(4, 3), seed=seed)
    forgotten = PermutationSpec.loads(text.replace("  low.weight: [2, hidden]\n", ""))
    with pytest.raises(PermutationSpecError, match="changes the function"):
        derive.verify(forgotten, Whispering(), torch.randn(4, 3), seed=seed)


def test_a_group_of_one_element_has_no_control() -> None:
    text = TWO_LAYERS.replace("hidden: 6", "hidden: 6, single: 1").replace(
        "3.weight: [2, hidden]", "3.weight: [2, hidden]\n  3.bias: [single + 1]"
    )
    proof = verify(text)
    assert proof.controls.keys() == {"hidden"} and proof.sizes["single"] == 1


class Attention(nn.Module):
    """Two heads with fused qkv and no bias: queries and keys are tied within one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(5, 18, bias=False), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, 3).permute(2, 0, 3, 1, 4)
        heads = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(heads.transpose(1, 2).flatten(2))


HEADS = """
format: perm-merge/permspec@1
groups:
  heads: 2
  qk: {size: 3, within: heads}
  vo: {size: 3, within: heads}
axes:
  qkv.weight: [qk + qk + vo, 5]
  proj.weight: [2, vo]
"""


def test_a_group_that_one_tensor_carries_twice_has_a_control() -> None:
    proof = derive.verify(PermutationSpec.loads(HEADS), Attention(), torch.randn(2, 4, 5))
    assert proof.difference < 1e-13
    assert proof.controls["qk"] > 1e-6


def test_queries_and_keys_permuted_apart_are_found() -> None:
    apart = HEADS.replace("  vo:", "  k: {size: 3, within: heads}\n  vo:")
    with pytest.raises(PermutationSpecError, match="changes the function"):
        derive.verify(
            PermutationSpec.loads(apart.replace("qk + qk", "qk + k")),
            Attention(),
            torch.randn(2, 4, 5),
        )


class Float32Inside(nn.Module):
    """Casts to float32 in the middle, as some attention layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.a(x)).float().softmax(-1).type_as(x)
        return self.b(hidden)


def test_casts_inside_a_network_do_not_drown_the_proof() -> None:
    text = TWO_LAYERS.replace("  1.*: [hidden]\n", "").replace("0.", "a.").replace("3.w", "b.w")
    proof = derive.verify(PermutationSpec.loads(text), Float32Inside(), torch.randn(5, 4))
    assert proof.difference < 1e-14
    assert torch.zeros(1, dtype=torch.float64).float().dtype == torch.float32


def test_outputs_that_cannot_be_compared_are_refused() -> None:
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) * 0

    text = "format: perm-merge/permspec@1\ngroups: {h: 6}\naxes:\n  a.weight: [h, 4]\n"
    with pytest.raises(PermutationSpecError, match=r"outputs reach 0\.0"):
        derive.verify(PermutationSpec.loads(text), Silent(), torch.randn(5, 4))


def test_a_spec_that_names_its_architecture_needs_no_module() -> None:
    text = networks.permutation_spec_text("mlp", {"in_features": 6, "hidden": [4]})
    assert text is not None
    proof = derive.verify(PermutationSpec.loads(text))
    assert proof.difference < 1e-12 and proof.sizes == {"layers.0": 4}
    with pytest.raises(PermutationSpecError, match="names no architecture; give a module"):
        derive.verify(PermutationSpec.loads(TWO_LAYERS))
