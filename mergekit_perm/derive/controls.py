"""Negative controls: evidence that every group of a spec moves something the outputs depend on.

A spec that moves nothing preserves every function. So every group is moved on one tensor alone:
let t be a tensor that carries it, and t' the same tensor with the group moved on one axis.

*To first order.* With F = <c, outputs>, where c is standard normal noise over the Euclidean norm of
each output, one backward pass gives dF/dt for every tensor, and so |<dF/dt, t' - t>| for every
group: how fast F changes when t sets off on the straight line to t'. It is zero when the outputs do
not depend on the entries that the group moves; above the threshold, it proves that they do, for
other points of that line have other outputs. In size it is the relative change of the outputs to
first order, times a standard normal. It does not claim that the outputs at t' itself are others:
where one tensor alone carries a group and the function is symmetric in it, they are not, and the
group is none the worse for it.

*By a finite move.* Where no tensor shows that (running statistics have no gradient, a network may
detach), t is replaced by t' and the outputs are compared.

A network may compute what it does not use: then its outputs stay, whatever the tensors of the group
are. That is no fault of a spec that has other groups, and the group is said to be unread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

import torch
from torch import nn

from mergekit_perm.axes import groups_of
from mergekit_perm.derive.moving import moved_alone
from mergekit_perm.derive.trial import Outcome, Trial, largest
from mergekit_perm.errors import PermutationSpecError

# How often groups that are asleep may be woken.
_ATTEMPTS = 3

# A first-order control of this size is plain, and no other tensor is looked at.
_PLAIN = 1e-3


@dataclass(slots=True)
class Controls:
    """The largest control of every group so far, and which ones are finite changes.

    Groups that are `unread` have none.
    """

    enough: float
    changes: dict[str, float]
    finite: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def missing(self) -> list[str]:
        """Return the groups that have not shown to move anything."""
        return [group for group, change in self.changes.items() if not change > self.enough]


def to_first_order(trial: Trial, enough: float) -> Controls:
    """Return the first-order controls of all groups of two elements or more, in eval mode.

    A group may be asleep: all its neurons behind a ReLU that is off for every example. Then no
    proof on these weights says anything about it, so the parameters that carry it change sign.

    Args:
        trial: the network.
        enough: what a control has to exceed.
    """
    found = _measured(trial, enough)
    for _ in range(_ATTEMPTS):
        asleep = found.missing()
        if not asleep:
            break
        _negate_carriers(trial, asleep)
        again = _measured(trial, enough)
        if len(again.missing()) >= len(asleep):
            _negate_carriers(trial, asleep)
            break
        found = again
    return found


def complete(trial: Trial, references: Mapping[bool, Outcome], found: Controls) -> None:
    """Find the controls that are missing: to first order in training mode, or by a finite move.

    Args:
        trial: the network.
        references: what it computes in eval mode (False) and in training mode (True); without the
            latter, only eval mode is looked at.
        found: the controls so far; changed in place.

    Raises:
        PermutationSpecError: when a group moves nothing on any tensor, although the outputs depend
            on them; or when that is so of all groups.
    """
    if True in references and found.missing():
        _measure(trial, found, training=True)
    for group, tensors in _carriers(trial, found.missing()).items():
        change = _by_a_finite_move(trial, references, group, tensors, found.enough)
        if change > found.enough:
            found.changes[group] = change
            found.finite.append(group)
            continue
        del found.changes[group]
        if not found.changes or _are_read(trial, references, tensors, found.enough):
            raise PermutationSpecError(
                f"group '{group}' moves nothing: permuting it on one tensor alone changes the "
                f"outputs by {change:.1e}, so the spec says nothing about the network there"
            )
        found.unread.append(group)


def _carriers(trial: Trial, groups: Sequence[str]) -> dict[str, list[str]]:
    """Return, for each of `groups`, the tensors on which it or a group within it is permuted."""
    carriers: dict[str, list[str]] = {group: [] for group in groups}
    for tensor in trial.tensors:
        for group in groups_of(trial.spec.axes.get(tensor, ()), trial.spec.groups):
            if group in carriers:
                carriers[group].append(tensor)
    return carriers


def _moved(trial: Trial, tensor: str, group: str) -> torch.Tensor:
    value = trial.tensors[tensor].detach()
    return moved_alone(value, trial.spec.axes[tensor], trial.spec.groups, group)


def _negate_carriers(trial: Trial, groups: Sequence[str]) -> None:
    carriers = {name for names in _carriers(trial, groups).values() for name in names}
    for name in carriers:
        if isinstance(trial.tensors[name], nn.Parameter):
            trial.tensors[name].detach().neg_()


# ------------------------------------------------------------------------------- to first order


def _measured(trial: Trial, enough: float) -> Controls:
    groups = trial.spec.groups
    found = Controls(enough, {name: 0.0 for name in groups if groups[name].size > 1})
    if found.changes:
        _measure(trial, found, training=False)
    return found


def _measure(trial: Trial, found: Controls, *, training: bool) -> None:
    """Raise the controls that are missing to what one backward pass shows."""
    groups_on: dict[str, list[str]] = {}
    for group, tensors in _carriers(trial, found.missing()).items():
        for tensor in tensors:
            groups_on.setdefault(tensor, []).append(group)

    def measure(name: str, parameter: torch.Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None  # one gradient in memory at a time
        for group in groups_on[name]:
            if gradient is not None and found.changes[group] < _PLAIN:
                move = _moved(trial, name, group) - parameter.detach()
                change = abs(float(torch.vdot(gradient.flatten(), move.flatten())))
                if math.isfinite(change):
                    found.changes[group] = max(found.changes[group], change)

    leaves = {n: t for n, t in trial.tensors.items() if n in groups_on and t.requires_grad}
    hooks = [
        leaf.register_post_accumulate_grad_hook(partial(measure, name))  # type: ignore[no-untyped-call]
        for name, leaf in leaves.items()
    ]
    try:
        with torch.enable_grad(), trial.buffers_kept():
            _scalar(trial.outputs(training=training)).backward()  # type: ignore[no-untyped-call]
    except RuntimeError:
        pass  # not differentiable: the finite move decides
    finally:
        for hook in hooks:
            hook.remove()
        trial.module.zero_grad()


def _scalar(outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the inner product of the outputs, each of unit length, with standard normal noise."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(())
    for output in outputs:
        if output.requires_grad:
            noise = torch.randn(output.shape, generator=generator, dtype=output.dtype)
            length = float(torch.linalg.vector_norm(output.detach()))
            total = total + torch.real((noise * output).sum()) / (length or 1.0)
    return total


# ----------------------------------------------------------------------------- by a finite move


def _by_a_finite_move(
    trial: Trial,
    references: Mapping[bool, Outcome],
    group: str,
    tensors: Sequence[str],
    enough: float,
) -> float:
    """Return the change when `group` moves on one tensor only; try tensors until one shows."""
    most = 0.0
    for name, (training, reference) in product(tensors, references.items()):
        tensor = trial.tensors[name].detach()
        before = tensor.clone()
        tensor.copy_(_moved(trial, name, group))
        most = largest((most, _change(trial, reference, training)))
        tensor.copy_(before)
        if most > enough:
            break
    return most


def _are_read(
    trial: Trial, references: Mapping[bool, Outcome], tensors: Sequence[str], enough: float
) -> bool:
    """Tell whether the outputs are others when all of `tensors` are."""
    values = [trial.tensors[name].detach() for name in tensors]
    before = [value.clone() for value in values]
    for value in values:
        if value.is_floating_point():
            value.neg_().add_(1.0)
    changes = [_change(trial, reference, mode) for mode, reference in references.items()]
    for value, was in zip(values, before, strict=True):
        value.copy_(was)
    return largest(changes) > enough


def _change(trial: Trial, reference: Outcome, training: bool) -> float:
    """Return how far the outputs are from those of `reference`."""
    outputs = replace(trial.run(training=training), buffers=reference.buffers)
    return outputs.distance(reference)
