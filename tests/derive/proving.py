"""Deriving a spec, writing and reading it back, and proving it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import mergekit_perm as pm
from mergekit_perm import networks
from mergekit_perm.permspec import PermutationSpec

torch.set_num_threads(1)


def derived_and_proven(
    module: nn.Module | str, inputs: Any = None, options: Mapping[str, Any] = {}
) -> tuple[PermutationSpec, pm.Proof]:
    """Return the derived spec, as read back from its YAML, and the proof that it holds.

    A module that is given is proven itself, so it is changed.
    """
    derived = pm.derive(module, options, inputs=inputs)
    assert derived.shapes is not None
    read = PermutationSpec.loads(derived.dumps()).bind(derived.shapes)
    assert dict(read.groups) == dict(derived.groups)
    assert read.axes == derived.axes
    if isinstance(module, str):
        module = networks.build(module, networks.without_weight_options(options), seed=0)
    proof = pm.verify(read, module, inputs)
    assert proof.difference < 1e-11
    assert (proof.training_difference or 0.0) < 1e-10
    return read, proof


def images(*shape: int) -> torch.Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


def sizes(spec: PermutationSpec) -> str:
    """Return the groups' sizes: `5` for a group, `2>3` for one of 3 in each block of one of 2."""
    chains = [spec.groups.chain(name) for name in spec.groups]
    return " ".join(sorted(">".join(str(group.size) for group in chain[::-1]) for chain in chains))


def counts(spec: PermutationSpec) -> tuple[int, int]:
    """Return how many outermost groups there are, and how many in all.

    Nested ones count once for every block.
    """
    groups = spec.groups
    blocks = [groups.length(group.within) if group.within else 1 for group in groups.values()]
    return len(groups.top()), sum(blocks)
