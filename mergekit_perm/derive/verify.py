"""Proving a permutation spec: the function stays, and every group really moves something.

A permutation spec claims that its groups' permutations leave the network's function as it is. That
is tested on the built network in float64 with random members of the whole group. A spec that moves
nothing would pass, so every group also has a negative control: moved on one tensor only, it must
change the outputs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from mergekit_perm import action, axes
from mergekit_perm.derive.generic import clear_caches, float64_throughout, make_generic
from mergekit_perm.derive.probe import probe
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.permspec import Permutations, PermutationSpec
from mergekit_perm.permutation import Indices
from mergekit_perm.progress import Progress, silent

TOLERANCE = 1e-9

# A control must change the outputs by this many tolerances to count as a change.
_CONTROL_MARGIN = 100.0


@dataclass(frozen=True, slots=True)
class Proof:
    """What the verification of one spec on one network measured.

    Attributes:
        difference: the largest change of the outputs under random members, relative to the
            largest output.
        controls: by group of two elements or more, the change of the outputs when one tensor
            alone is permuted.
        coverage: the share of parameter elements with at least one permuted axis.
        sizes: by group, how many coordinates it permutes.
        members: how many random members were tried.
        seconds: wall time.
    """

    difference: float
    controls: dict[str, float]
    coverage: float
    sizes: dict[str, int]
    members: int
    seconds: float


def verify(
    spec: PermutationSpec,
    module: nn.Module | None = None,
    inputs: torch.Tensor | None = None,
    *,
    members: int = 3,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    progress: Progress = silent,
) -> Proof:
    """Prove that `spec` preserves the function of `module`, or say which group does not.

    Args:
        spec: the spec, bound or not.
        module: the network; changed in place to float64 and made generic, so pass a fresh one. By
            default the architecture that the spec names is built.
        inputs: a batch that the network takes, (examples, ...); goes with `module`.
        members: how many random members of the whole group to try.
        seed: of the generic weights and the random members.
        tolerance: the largest relative change of the outputs that counts as rounding.

    Raises:
        PermutationSpecError: the spec does not fit the network, changes its function, or has a
            group that moves nothing.
    """
    began = time.perf_counter()
    if module is None or inputs is None:
        if spec.architecture is None:
            raise PermutationSpecError("the spec names no architecture; give a module and inputs")
        module, inputs = probe(spec.architecture, spec.options)
    state = module.state_dict()
    bound = spec.bind({name: tuple(tensor.shape) for name, tensor in state.items()})
    task = f"verifying {spec.architecture or 'permutation spec'}"
    steps = members + len(bound.groups)
    with float64_throughout(), torch.no_grad():
        trial = _Trial(make_generic(module, seed=seed), bound, inputs.double())
        generator = np.random.default_rng(seed)
        difference = 0.0
        for done in range(members):
            progress(task, done, steps)
            difference = max(difference, trial.change_under(bound.random(generator=generator)))
        if not difference <= tolerance:
            raise _not_preserved(trial, difference, tolerance, seed)
        controls = {}
        for done, group in enumerate(bound.groups):
            progress(task, members + done, steps)
            if bound.groups[group].size > 1:
                controls[group] = trial.control(group, tolerance * _CONTROL_MARGIN, generator)
        progress(task, steps, steps)
    return Proof(
        difference=difference,
        controls=controls,
        coverage=bound.coverage({n: tuple(p.shape) for n, p in module.named_parameters()}),
        sizes={name: bound.groups.length(name) for name in bound.groups},
        members=members,
        seconds=time.perf_counter() - began,
    )


class _Trial:
    """A generic network, its outputs, and how much they change when tensors are replaced."""

    def __init__(self, module: nn.Module, spec: PermutationSpec, inputs: torch.Tensor) -> None:
        self.module, self.spec, self.inputs = module, spec, inputs
        self.state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        self.outputs = self.run(self.state)
        self.scale = max(float(output.abs().max()) for output in self.outputs)
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise PermutationSpecError(
                f"the network's outputs reach {self.scale}, so nothing can be compared; "
                "check its options and input shape"
            )

    def run(self, state: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        clear_caches(self.module)
        outputs = torch.func.functional_call(self.module, dict(state), (self.inputs,))
        return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]

    def change(self, state: Mapping[str, torch.Tensor]) -> float:
        """Return how far the outputs move when the network has the weights `state`."""
        pairs = zip(self.run(state), self.outputs, strict=True)
        return max(float((new - old).abs().max()) for new, old in pairs) / self.scale

    def change_under(self, permutations: Permutations) -> float:
        return self.change(self.spec.apply(permutations, self.state))

    def control(self, group: str, enough: float, generator: np.random.Generator) -> float:
        """Return the change when `group` moves on one tensor only; try tensors until one shows.

        Raises:
            PermutationSpecError: when no tensor alone changes the outputs.
        """
        largest = 0.0
        for tensor in self.spec.carriers(group):
            moved = _moved_alone(self.spec, tensor, self.state[tensor], group, generator)
            largest = max(largest, self.change({**self.state, tensor: moved}))
            if largest > enough:
                return largest
        raise PermutationSpecError(
            f"group '{group}' moves nothing: permuting it on one tensor alone changes the outputs "
            f"by {largest:.1e}, so the spec says nothing about the network there"
        )


def _moved_alone(
    spec: PermutationSpec,
    tensor: str,
    value: torch.Tensor,
    group: str,
    generator: np.random.Generator,
) -> torch.Tensor:
    """Return `value` with `group` moved on the first axis, and the first place there, it stands.

    Permuting one of several places breaks the tie between them: of query and key rows that share
    a group, say, only the query rows move.
    """
    only = {name: p.indices for name, p in spec.random(generator=generator, only=group).items()}
    row = spec.axes[tensor]
    for dim, axis in enumerate(row):
        if axes.inner_group(axis) is not None:
            continue
        places = action.occurrences(axis, spec.groups, group)
        if places.shape[1]:
            return value.index_select(
                dim, torch.from_numpy(_displaced(places, only[group], value.shape[dim]))
            )
    return action.act(value, row, spec.groups, only)


def _displaced(places: Indices, move: Indices, size: int) -> Indices:
    index = np.arange(size)
    index[places[:, 0]] = places[move, 0]
    return index


def _not_preserved(
    trial: _Trial, difference: float, tolerance: float, seed: int
) -> PermutationSpecError:
    """Return an error that names the groups which alone change the outputs."""
    generator = np.random.default_rng(seed)
    changes: dict[str, float] = {}
    for group in trial.spec.groups:
        changes[group] = trial.change_under(trial.spec.random(generator=generator, only=group))
    guilty = [
        f"{group} ({change:.1e}; on {', '.join(list(trial.spec.carriers(group))[:4])})"
        for group, change in changes.items()
        if not change <= tolerance
    ]
    shown = "\n  ".join(guilty[:10] + [f"(+{len(guilty) - 10} more)"] * (len(guilty) > 10))
    return PermutationSpecError(
        f"the permutation spec of {trial.spec.architecture or 'this architecture'} changes the "
        f"function of the network: outputs differ by {difference:.1e} of their size, rounding "
        f"would give under {tolerance:.0e}. Groups that do so alone:\n  {shown}"
    )
