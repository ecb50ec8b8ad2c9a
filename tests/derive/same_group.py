"""Whether two permutation specs of one network permit the same permutations, whatever their names.

A random member of one spec's group is a permutation of the coordinates of all tensors. It belongs
to the other spec's group exactly when that group's permutations, read off the axes on which they
stand, do the same to every tensor. A random member of a group lies in a proper subgroup at most
half of the time, so a few members in both directions tell.
"""

from __future__ import annotations

import numpy as np
import torch

from mergekit_perm import tensor_action
from mergekit_perm.axes import inner_group
from mergekit_perm.axis_elements import occurrences
from mergekit_perm.members import Member
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Indices

# What a member does to a tensor: where the coordinates of each axis came from; for a tensor with
# an axis that depends on another, where each entry came from.
Moves = dict[str, list[Indices]]


def assert_same_group(one: PermutationSpec, other: PermutationSpec, *, members: int = 4) -> None:
    """Assert that both bound specs permit the same permutations of the same tensors."""
    assert one.shapes == other.shapes
    for known, asked in ((one, other), (other, one)):
        generator = np.random.default_rng(0)
        for _ in range(members):
            drawn = {n: p.indices for n, p in known.random(generator=generator).items()}
            wanted = moves(known, drawn)
            found = moves(asked, member_that_does(asked, wanted))
            for name, axes in wanted.items():
                same = all(map(np.array_equal, axes, found[name]))
                assert same and len(axes) == len(found[name]), f"{name} moves otherwise"


def moves(spec: PermutationSpec, member: Member) -> Moves:
    """Return what `member` does to every tensor."""
    assert spec.shapes is not None
    result: Moves = {}
    for name, shape in spec.shapes.items():
        row = spec.axes.get(name, ())
        if any(inner_group(axis) for axis in row):
            entries = torch.arange(int(np.prod(shape))).reshape(shape)
            result[name] = [tensor_action.act(entries, row, spec.groups, member).numpy()]
        else:
            result[name] = [np.arange(length) for length in shape]
            for dim, _, source in tensor_action.sources(row, spec.groups, member):
                result[name][dim] = source
    return result


def member_that_does(spec: PermutationSpec, wanted: Moves) -> dict[str, Indices]:
    """Return the member of the spec's group that moves tensors as `wanted`, read off their axes."""
    member: dict[str, Indices] = {}
    for group in spec.groups:
        name, dim, places = _stands(spec, group)
        moved = _along(wanted[name], dim)
        element = np.full(len(moved), -1)
        element[places] = np.arange(len(places))[:, None]
        member[group] = element[moved[places[:, 0]]]
        assert (np.sort(member[group]) == np.arange(len(places))).all(), f"{group} is broken up"
    return member


def _stands(spec: PermutationSpec, group: str) -> tuple[str, int, Indices]:
    """Return a tensor and an axis on which `group` stands, and where its elements do."""
    for name in spec.carriers(group):
        for dim, axis in enumerate(spec.axes[name]):
            if inner_group(axis) is None:
                places = occurrences(axis, spec.groups, group)
                if places.shape[1]:
                    return name, dim, places
    raise AssertionError(f"{group} stands on no axis")


def _along(axes: list[Indices], dim: int) -> Indices:
    """Return where each coordinate of axis `dim` came from."""
    if axes[0].ndim == 1:
        return axes[dim]
    entries = axes[0]
    first: Indices = np.moveaxis(entries, dim, 0).reshape(entries.shape[dim], -1)[:, 0]
    inner = int(np.prod(entries.shape[dim + 1 :]))
    return first // inner % entries.shape[dim]
