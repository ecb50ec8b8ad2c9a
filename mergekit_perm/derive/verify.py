"""Proving a permutation spec: the function stays, and every group really moves something.

A permutation spec claims that its groups' permutations leave the network's function as it is. That
is tested on the built network in float64 with random members of the whole group: in eval mode, and
in training mode too where that differs, with dropout off. A spec that moves nothing would pass, so
every group also has a negative control (see `controls`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from mergekit_perm import checkpoints
from mergekit_perm.derive.blame import not_preserved
from mergekit_perm.derive.controls import complete, to_first_order
from mergekit_perm.derive.exact import float64_throughout
from mergekit_perm.derive.generic import make_generic
from mergekit_perm.derive.inputs import Inputs, in_float64
from mergekit_perm.derive.probe import probe
from mergekit_perm.derive.trial import Outcome, Trial, largest
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.permspec import Permutations, PermutationSpec
from mergekit_perm.progress import Progress, silent

TOLERANCE = 1e-9

# A control must change the outputs by this many tolerances to count as a change.
_CONTROL_MARGIN = 100.0

# A change this small may be rounding that the network magnifies. Other weights tell: a spec that
# is wrong fails on all.
_ROUNDING = 1e-6
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Proof:
    """What the verification of one spec on one network measured.

    Attributes:
        difference: the largest change of the outputs under random members in eval mode, relative
            to the largest entry of each output.
        controls: by group of two elements or more, the relative change of the outputs when the
            group moves on one tensor alone: to first order, or, for the groups in `finite`, as it
            is. `derive.controls` says what exactly.
        coverage: the share of parameter elements with at least one permuted axis.
        sizes: by group, how many coordinates it permutes.
        members: how many random members were tried.
        seconds: wall time.
        finite: the groups whose control is a finite change.
        training_difference: the largest change in training mode, of outputs and of the running
            statistics it leaves; None where that mode was not compared.
        training: why training mode was not compared; "" where it was.
        unread: groups without a control, for the outputs do not depend on any of their tensors.
        inputs: the shapes of the tensors that the network was given.
    """

    difference: float
    controls: dict[str, float]
    coverage: float
    sizes: dict[str, int]
    members: int
    seconds: float
    finite: list[str] = field(default_factory=list)
    training_difference: float | None = None
    training: str = ""
    unread: list[str] = field(default_factory=list)
    inputs: list[list[int]] = field(default_factory=list)


def verify(
    spec: PermutationSpec,
    module: nn.Module | None = None,
    inputs: Inputs | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    members: int = 3,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    progress: Progress = silent,
) -> Proof:
    """Prove that `spec` preserves the function of `module`, or say which group does not.

    Args:
        spec: the spec, bound or not.
        module: the network; changed in place to float64, made generic and permuted, so pass a
            fresh one. By default the architecture that the spec names is built.
        inputs: one batch, (examples, ...), a sequence of arguments of the forward pass, or a
            mapping of them by name; goes with `module`.
        shapes: of every tensor of the network that the spec is for, where `module` is the same
            for smaller inputs: axes that the spec permutes nowhere may be of other lengths.
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
        found = probe(spec.architecture, spec.options, spec)
        module, inputs, shapes = found.module, found.inputs, found.shapes
    shapes = shapes or checkpoints.shapes(module)
    whole = spec.bind(shapes)
    bound = whole.bind_resized(checkpoints.shapes(module))
    task = f"verifying {spec.architecture or 'permutation spec'}"
    with float64_throughout():
        inputs = in_float64(inputs)
        for attempt in range(_ATTEMPTS):
            trial = Trial(make_generic(module, inputs, seed=seed + attempt), bound, inputs)
            tried = _Attempt(trial, tolerance, seed + attempt, last=attempt == _ATTEMPTS - 1)
            if tried.made(members, task, progress):
                break
    return Proof(
        difference=tried.differences[False],
        controls=tried.controls.changes,
        coverage=whole.coverage({name: shapes[name] for name, _ in module.named_parameters()}),
        sizes={name: whole.groups.length(name) for name in whole.groups},
        members=members,
        seconds=time.perf_counter() - began,
        finite=tried.controls.finite,
        training_difference=tried.differences.get(True),
        training=tried.training,
        unread=tried.controls.unread,
        inputs=[list(leaf.shape) for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)],
    )


class _Attempt:
    """A proof on one set of generic weights.

    Attributes:
        controls: of all groups.
        differences: the largest so far, by whether in training mode.
        training: why training mode is not compared; "" where it is.
    """

    def __init__(self, trial: Trial, tolerance: float, seed: int, *, last: bool) -> None:
        self.trial, self.tolerance, self.seed, self.last = trial, tolerance, seed, last
        self.controls = to_first_order(trial, tolerance * _CONTROL_MARGIN)
        self.references, self.training = _references(trial)
        self.differences = dict.fromkeys(self.references, 0.0)

    def made(self, members: int, task: str, progress: Progress) -> bool:
        """Try random members and complete the controls; tell whether that is a proof.

        It is none where rounding may have made the difference, and this is not the last attempt.

        Raises:
            PermutationSpecError: the function changes, or a group moves nothing.
        """
        generator = np.random.default_rng(self.seed)
        for done in range(members):
            progress(task, done + 1, members + 2)
            if not self._holds(self.trial.spec.random(generator=generator)):
                return False
        progress(task, members + 1, members + 2)
        complete(self.trial, self.references, self.controls)
        progress(task, members + 2, members + 2)
        return True

    def _holds(self, permutations: Permutations) -> bool:
        changes = _compare(self.trial, self.references, permutations)
        changed = not changes.get(True, 0.0) <= self.tolerance
        if changed and _is_random(self.trial, self.tolerance):
            del self.references[True], changes[True], self.differences[True]
            self.training = "not compared: two passes over the same inputs differ"
        for mode, change in changes.items():
            self.differences[mode] = largest((self.differences[mode], change))
            if not change <= self.tolerance:
                if change < _ROUNDING and not self.last:
                    return False
                seed = self.seed
                raise not_preserved(self.trial, change, self.tolerance, seed=seed, training=mode)
        return True


def _references(trial: Trial) -> tuple[dict[bool, Outcome], str]:
    """Return what the network computes, by whether in training mode, and why not in that one.

    Raises:
        PermutationSpecError: when there is nothing to compare in eval mode.
    """
    reference = trial.run()
    if not (math.isfinite(reference.scale) and reference.scale > 0):
        raise PermutationSpecError(
            f"the network's outputs reach {reference.scale}, so nothing can be compared; "
            "check its options and input shape"
        )
    try:
        trained = trial.run(training=True)
    except Exception as cause:
        reason = " ".join(str(cause).split())
        return {False: reference}, f"not compared: {type(cause).__name__}: {reason}"
    if trained.distance(reference) == 0:
        return {False: reference}, "the same function as in eval mode"
    if not math.isfinite(trained.scale):
        return {False: reference}, f"not compared: outputs reach {trained.scale}"
    return {False: reference, True: trained}, ""


def _compare(
    trial: Trial, references: Mapping[bool, Outcome], permutations: Permutations
) -> dict[bool, float]:
    """Permute a network and what is expected of it; return how far off it is in each mode."""
    trial.move(permutations)
    for reference in references.values():
        trial.act(permutations, reference.buffers)
    return {
        training: trial.run(training=training).distance(reference)
        for training, reference in references.items()
    }


def _is_random(trial: Trial, tolerance: float) -> bool:
    """Tell whether a pass in training mode depends on the random numbers drawn."""
    one, other = (trial.run(training=True, seed=seed) for seed in (0, 1))
    return not one.distance(other) <= tolerance
