"""Training mode, the statistics it leaves, and whatever shape outputs come in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from mergekit_perm import derive
from mergekit_perm.derive.trial import Outcome
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.permspec import PermutationSpec

torch.set_num_threads(1)

HIDDEN = """
format: perm-merge/permspec@1
groups: {hidden: 6}
axes:
  a.weight: [hidden, 4]
  a.bias: [hidden]
  b.weight: [2, hidden]
"""
NORM = HIDDEN + "  norm.*: [hidden]\n"


class Net(nn.Module):
    """Two layers, what happens to the hidden units, and what becomes of the outputs."""

    def __init__(
        self,
        between: nn.Module | None = None,
        give: Callable[[torch.Tensor, torch.Tensor], Any] = lambda outputs, hidden: outputs,
    ) -> None:
        super().__init__()
        self.a, self.b, self.give = nn.Linear(4, 6), nn.Linear(6, 2), give
        self.norm = between or nn.Identity()

    def forward(self, x: torch.Tensor) -> Any:
        hidden = self.norm(self.a(x)).sin()
        return self.give(self.b(hidden), hidden)


def verify(text: str, module: nn.Module, examples: int = 5) -> derive.Proof:
    inputs = torch.randn(examples, 4, generator=torch.Generator().manual_seed(0))
    return derive.verify(PermutationSpec.loads(text), module, inputs)


def test_batch_statistics_are_compared_in_training_mode() -> None:
    proof = verify(NORM, Net(nn.BatchNorm1d(6)))
    assert proof.training == "" and proof.training_difference is not None
    assert 0 < proof.training_difference < 1e-13


def test_a_network_that_training_does_not_change_is_compared_once() -> None:
    proof = verify(HIDDEN, Net(nn.Dropout(0.5)))
    assert proof.training == "the same function as in eval mode"
    assert proof.training_difference is None


class Watching(nn.Module):
    """Keeps a mean of what passes in training mode, and uses it for nothing."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(6))
        self.in_place = in_place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            seen = 0.5 * self.seen + 0.5 * x.mean(0).detach()
            if self.in_place:
                self.seen.copy_(seen)
            else:
                self.seen = seen
        return x + self.seen.mean()


@pytest.mark.parametrize("in_place", [True, False])
def test_statistics_that_training_leaves_are_compared(in_place: bool) -> None:
    proof = verify(NORM, Net(Watching(in_place=in_place)))
    assert proof.training_difference is not None and proof.training_difference < 1e-13
    with pytest.raises(PermutationSpecError, match="in training mode"):
        verify(HIDDEN, Net(Watching(in_place=in_place)))


class Shuffle(nn.Module):
    """Mixes the examples at random in training mode, which permutes no channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.5 * x[torch.randperm(len(x))] if self.training else x


def test_random_numbers_that_move_no_channel_are_drawn_alike() -> None:
    proof = verify(HIDDEN, Net(Shuffle()))
    assert proof.training_difference is not None and proof.training_difference < 1e-13


def test_random_numbers_for_channels_are_reported_and_not_held_against_a_spec() -> None:
    proof = verify(HIDDEN, Net(nn.RReLU(0.1, 0.9)))
    assert proof.training == "not compared: two passes over the same inputs differ"
    assert proof.training_difference is None and proof.difference < 1e-13


def test_a_network_that_cannot_train_on_so_little_is_reported() -> None:
    proof = verify(NORM, Net(nn.BatchNorm1d(6)), examples=1)
    assert proof.training.startswith("not compared: ValueError: Expected more than 1 value")
    assert proof.difference < 1e-13


def test_training_that_gives_no_finite_numbers_is_reported() -> None:
    class Overflow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / 0 if self.training else x

    proof = verify(HIDDEN, Net(Overflow()))
    assert proof.training == "not compared: outputs reach inf"


class Pair(NamedTuple):
    outputs: torch.Tensor
    rest: dict[str, Any]


def test_outputs_may_be_any_tree_of_tensors() -> None:
    def give(outputs: torch.Tensor, hidden: torch.Tensor) -> Pair:
        rest = {"best": outputs.argmax(-1), "none": None, "empty": outputs[:0], "size": 2}
        return Pair(outputs, {**rest, "waves": [torch.complex(outputs, outputs)]})

    assert verify(HIDDEN, Net(give=give)).difference < 1e-13


def test_every_output_counts_by_its_own_size() -> None:
    """A small output is not lost beside a large one."""

    def give(outputs: torch.Tensor, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 1e12 * outputs, hidden

    with pytest.raises(PermutationSpecError, match="changes the function"):
        verify(HIDDEN, Net(give=give))


def test_whole_numbers_among_the_outputs_are_equal_or_not() -> None:
    with pytest.raises(PermutationSpecError, match="outputs differ by inf"):
        verify(HIDDEN, Net(give=lambda outputs, hidden: (outputs, hidden.argmax(-1))))


def test_what_is_not_a_number_is_infinitely_far() -> None:
    numbers, none = torch.ones(3), torch.full((3,), torch.nan)
    assert Outcome([none], {}).distance(Outcome([numbers], {})) == math.inf
    assert Outcome([numbers], {"a": numbers}).distance(Outcome([numbers], {})) == math.inf
    assert Outcome([numbers[:2]], {}).distance(Outcome([numbers], {})) == math.inf
    assert Outcome([2 * numbers], {}).distance(Outcome([numbers], {})) == 1
    assert Outcome([none], {}).scale == math.inf and Outcome([], {}).scale == 0


def test_inputs_that_a_network_writes_into_are_copies() -> None:
    class Greedy(Net):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x.mul_(2))

    inputs = torch.randn(5, 4)
    before = inputs.clone()
    proof = derive.verify(PermutationSpec.loads(HIDDEN), Greedy(), inputs)
    assert proof.difference < 1e-13 and inputs.equal(before)


class Tied(nn.Module):
    """Goes through the same matrix on the way in and on the way out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6, bias=False), nn.Linear(4, 6, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x).sin() @ self.b.weight


TIED = """
format: perm-merge/permspec@1
groups: {hidden: 6}
axes: {a.weight: [hidden, 4], b.weight: [hidden, 4]}
"""


def test_tied_tensors_are_permuted_once_and_alike() -> None:
    assert verify(TIED, Tied()).difference < 1e-13
    with pytest.raises(PermutationSpecError, match=r"'a\.weight' and 'b\.weight' are one tensor"):
        verify(TIED.replace(", b.weight: [hidden, 4]", ""), Tied())


def test_an_error_names_ten_groups_at_most() -> None:
    names = [f"g{place}" for place in range(15)]
    module = Net()
    module.a, module.b = nn.Linear(4, 75), nn.Linear(75, 2)
    text = "format: perm-merge/permspec@1\n"
    text += f"groups: {{{', '.join(f'{name}: 5' for name in names)}}}\n"
    text += f"axes: {{a.weight: [{' + '.join(names)}, 4]}}\n"
    with pytest.raises(PermutationSpecError) as error:
        verify(text, module)
    lines = str(error.value).splitlines()[1:]
    assert lines[-1] == "  (and more)" and len(lines) == 11
    assert all(line.startswith("  g") and "on a.weight" in line for line in lines[:-1])


@pytest.mark.parametrize("name", ["test_resnet", "test_nfnet"])
def test_specs_of_networks_are_proven_in_both_modes(name: str) -> None:
    spec = derive.derive(name)
    proof = derive.verify(spec)
    assert proof.difference < 1e-12 and min(proof.controls.values()) > 1e-5
    assert proof.finite == []
    if proof.training_difference is None:
        assert proof.training == "the same function as in eval mode"
    else:
        assert proof.training_difference < 1e-12
