"""Permutation specs: which axis of which tensor is permuted by which group.

A spec is data. `PermutationSpec.load` reads it, `bind` checks it against the shapes of a network
and names every tensor, and the bound spec permutes state dicts. The symmetry of networks under
these permutations is that of Git Re-Basin (arXiv 2209.04836); nested groups add the wreath
products that heads and grouped convolutions have.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mergekit_perm import axes, axis_size, tensor_action
from mergekit_perm.axes import Axis, Fixed
from mergekit_perm.axis_elements import elements
from mergekit_perm.axis_text import format_axis
from mergekit_perm.errors import PermutationSpecError, suggest
from mergekit_perm.groups import Groups
from mergekit_perm.members import Member, assemble, own_moves
from mergekit_perm.permutation import Indices, Permutation
from mergekit_perm.sections import sections

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
Permutations = Mapping[str, Permutation]


@dataclass(frozen=True)
class PermutationSpec:
    """The groups of an architecture and the axes they permute.

    Attributes:
        groups: every group by name, outer groups of nested ones included.
        axes: for each tensor name, or pattern with `*`, one axis expression per dimension.
            Tensors that are not listed are fixed.
        architecture: the architecture the spec was written for, if it says so.
        options: the options of that architecture that the spec holds for.
        fixed: reasons why axes are fixed, by tensor name; for people.
        proof: what the last proof of the spec measured, and the hash of what was proven.
        shapes: the shape of every tensor of the network once bound, else None.
    """

    groups: Groups
    axes: Mapping[str, tuple[Axis, ...]]
    architecture: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, Shape] | None = None

    # ------------------------------------------------------------------------- reading, writing

    @classmethod
    def load(cls, path: str | Path) -> PermutationSpec:
        """Read a spec from a YAML file.

        Raises:
            PermutationSpecError: with every problem found and its line and column.
        """
        from mergekit_perm.permspec_text import load

        return load(Path(path))

    @classmethod
    def loads(cls, text: str, *, file: str = "<string>") -> PermutationSpec:
        """Read a spec from YAML text; errors as `load`."""
        from mergekit_perm.permspec_text import loads

        return loads(text, file=file)

    def dumps(self) -> str:
        """Return the spec as YAML for people: entries that repeat are one, as `{i:0..11}`.

        A bound spec also says `module.*` for all tensors of a module, and its text follows the
        order of the network. `loads` gives back an equal spec (after `bind`, for a bound one),
        except that names in `fixed` stay folded; groups and axes come in the order of the text.
        """
        from mergekit_perm.permspec_text import dumps

        return dumps(self)

    @cached_property
    def sha256(self) -> str:
        """A hash of what the spec permutes: groups and axes, not comments or reasons."""
        content = {
            "groups": [[g.name, g.size, g.within] for g in self.groups.values()],
            "axes": [[name, *map(format_axis, row)] for name, row in sorted(self.axes.items())],
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    # --------------------------------------------------------------------------------- checking

    def bind(
        self, shapes: Mapping[str, Sequence[int]], *, partial: bool = False
    ) -> PermutationSpec:
        """Return the spec with every pattern resolved to the tensors of a network, and checked.

        Args:
            shapes: the shape of every tensor of the network (parameters and buffers).
            partial: these are some of the network's tensors only, as in a pruning mask; what the
                spec says of others is left out.

        Raises:
            PermutationSpecError: listing every pattern that matches nothing, every axis whose
                size is not the tensor's, and every expression that a permutation leads out of.
        """
        known = {name: tuple(shape) for name, shape in shapes.items()}
        if self.shapes == known:
            return self
        problems: list[str] = []
        bound: dict[str, tuple[Axis, ...]] = {}
        for name, row in self._matched(known, problems, partial=partial).items():
            try:
                bound[name] = self._fitted(row, known[name])
            except PermutationSpecError as error:
                problems.append(f"{name}: {error}")
        carried = {group for row in bound.values() for axis in row for group in axes.names(axis)}
        if not (problems or partial):
            problems += [
                f"group '{name}' permutes no axis of any tensor"
                for name in self.groups
                if name not in carried and not self.groups.children(name)
            ]
        if problems:
            subject = f"the permutation spec of {self.architecture or 'this architecture'}"
            shown = "\n  ".join(
                problems[:20] + [f"(+{len(problems) - 20} more)"] * (len(problems) > 20)
            )
            raise PermutationSpecError(f"{subject} does not fit the network:\n  {shown}")
        return replace(self, axes=bound, shapes=known)

    def bind_resized(self, shapes: Mapping[str, Sequence[int]]) -> PermutationSpec:
        """Return a bound spec as it holds for the same network built for inputs of another size.

        What is fixed on an axis, such as positions, becomes as long as it has to be.

        Args:
            shapes: the shape of every tensor of the other network.

        Raises:
            PermutationSpecError: as `bind`.
        """
        rows = dict(self.axes)
        for name, row in self.axes.items():
            if name in shapes and len(row) == len(shapes[name]):
                pairs = zip(row, shapes[name], strict=True)
                rows[name] = tuple(_stretched(axis, length, self.groups) for axis, length in pairs)
        return replace(self, axes=rows, shapes=None).bind(shapes)

    def _matched(
        self, shapes: Mapping[str, Shape], problems: list[str], *, partial: bool
    ) -> dict[str, tuple[Axis, ...]]:
        """Resolve patterns: an exact name beats a pattern; two patterns may not claim a tensor."""
        matched = {name: row for name, row in self.axes.items() if name in shapes}
        claimed: dict[str, str] = {}
        for pattern, row in self.axes.items():
            if pattern in shapes:
                continue
            hits = [name for name in _matches(pattern, shapes) if name not in self.axes]
            if not (hits or partial):
                problems.append(f"{pattern}: no such tensor{suggest(pattern, shapes, cutoff=0.8)}")
            for name in hits:
                if name in claimed and self.axes[claimed[name]] != row:
                    problems.append(f"{name}: both '{claimed[name]}' and '{pattern}' describe it")
                claimed[name] = pattern
                matched[name] = row
        return matched

    def _fitted(self, row: tuple[Axis, ...], shape: Shape) -> tuple[Axis, ...]:
        if len(row) != len(shape):
            raise PermutationSpecError(
                f"{len(row)} axes described, the tensor has {len(shape)}: {list(shape)}"
            )
        sized = tuple(
            Fixed(length) if axis == Fixed(None) else axis
            for axis, length in zip(row, shape, strict=True)
        )
        for place, (axis, length) in enumerate(zip(sized, shape, strict=True)):
            given = axis_size.size(axis, self.groups)
            if given != length:
                raise PermutationSpecError(
                    f"axis {place}: '{format_axis(axis)}' gives {given} coordinates, "
                    f"the tensor has {length}"
                )
        if any(axes.has_part(axis) or axes.has_inner(axis) for axis in sized):
            tensor_action.check_closed(sized, self.groups)
            sections(sized, self.groups)
        return sized

    # ---------------------------------------------------------------------------------- members

    def identity(self) -> dict[str, Permutation]:
        """Return the member of the symmetry group that moves nothing."""
        return self.permutations({})

    def random(
        self, *, generator: np.random.Generator | torch.Generator, only: str | None = None
    ) -> dict[str, Permutation]:
        """Return a uniformly random member: one whole Permutation per group.

        Args:
            generator: of numpy or of torch; the only source of randomness.
            only: draw just this group's own moves; the others move only as blocks of it do.
        """
        source = _numpy_generator(generator)
        moves: dict[str, Indices] = {}
        for group in self.groups.values():
            if only not in (None, group.name):
                continue
            if group.within is None:
                moves[group.name] = source.permutation(group.size)
            else:
                blocks = np.tile(np.arange(group.size), (self.groups.length(group.within), 1))
                moves[group.name] = source.permuted(blocks, axis=1)
        return self.permutations(moves)

    def permutations(self, moves: Mapping[str, Indices]) -> dict[str, Permutation]:
        """Return the member made of each group's own moves (see `members.assemble`)."""
        member = assemble(self.groups, moves)
        return {name: Permutation(indices) for name, indices in member.items()}

    def check_permutations(self, permutations: Permutations) -> None:
        """Raise PermutationSpecError unless `permutations` is a member of this spec's group."""
        missing = sorted(set(self.groups) - set(permutations))
        extra = sorted(set(permutations) - set(self.groups))
        if missing or extra:
            raise PermutationSpecError(
                "these permutations belong to another spec: "
                f"missing {missing[:5]}, unknown {extra[:5]}"
            )
        for name, permutation in permutations.items():
            if len(permutation) != self.groups.length(name):
                raise PermutationSpecError(
                    f"the permutation of '{name}' has {len(permutation)} elements, "
                    f"the group {self.groups.length(name)}"
                )
        own_moves(self.groups, _indices(permutations))

    # ----------------------------------------------------------------------------------- acting

    def apply(
        self, permutations: Permutations, state: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Return `state` permuted: new tensors, the same names, shapes and dtypes.

        Raises:
            PermutationSpecError: when spec, permutations and state do not fit one another.
        """
        spec = self.bind({name: tuple(tensor.shape) for name, tensor in state.items()})
        spec.check_permutations(permutations)
        return spec.act(_indices(permutations), state)

    def act(self, member: Member, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Permute `state` as `apply` does, without checking; for a bound spec and a raw member."""
        return {
            name: tensor_action.act(tensor, self.axes[name], self.groups, member)
            if name in self.axes
            else tensor.clone()
            for name, tensor in state.items()
        }

    def coverage(self, parameters: Mapping[str, Sequence[int]]) -> float:
        """Return the share of parameter elements with at least one permuted axis.

        An axis counts for the coordinates that a group of two or more elements moves.
        """
        moved = total = 0.0
        for name, shape in parameters.items():
            total += math.prod(shape)
            for section in sections(self.axes.get(name, ()), self.groups):
                still = 1.0
                for axis in section.axes:
                    still *= 1.0 - _moving_share(axis, self.groups)
                count = math.prod(shape)
                if section.dim >= 0:
                    count = count // shape[section.dim] * len(section.coordinates)
                moved += count * (1.0 - still)
        return moved / total if total else 0.0

    def carriers(self, group: str) -> Iterator[str]:
        """Yield the tensors on which `group`, or a group nested in it, permutes an axis."""
        for name, row in self.axes.items():
            groups = {
                g.name for axis in row for n in axes.names(axis) for g in self.groups.chain(n)
            }
            if group in groups:
                yield name


def _stretched(axis: Axis, length: int, groups: Groups) -> Axis:
    """Return `axis` with its one fixed part as long as the whole needs to be of `length`."""
    if isinstance(axis, Fixed):
        return Fixed(length)
    if isinstance(axis, axes.Concatenation):
        fixed = [term for term in axis.terms if isinstance(term, Fixed) and term.size is not None]
        rest = length - axis_size.size(axis, groups) + sum(term.size or 0 for term in fixed)
        if len(fixed) == 1 and rest > 0:
            terms = (Fixed(rest) if isinstance(term, Fixed) else term for term in axis.terms)
            return axes.Concatenation(tuple(terms))
    return axis


def _moving_share(axis: Axis, groups: Groups) -> float:
    inner = axes.inner_group(axis)
    if inner is not None:
        return 1.0 if groups[inner].size > 1 else 0.0
    moving = np.zeros(axis_size.size(axis, groups), dtype=bool)
    for name in axes.names(axis):
        for group in groups.chain(name):
            if group.size > 1:
                moving |= elements(axis, groups, group.name) >= 0
    return float(moving.mean()) if moving.size else 0.0


def _matches(pattern: str, shapes: Mapping[str, Shape]) -> list[str]:
    """Return the tensors that `pattern` stands for; `*` skips scalars, which cannot be permuted."""
    if "*" not in pattern:
        return []
    expression = re.compile(".*".join(map(re.escape, pattern.split("*"))))
    return [name for name, shape in shapes.items() if shape and expression.fullmatch(name)]


def _indices(permutations: Permutations) -> dict[str, Indices]:
    return {name: permutation.indices for name, permutation in permutations.items()}


def _numpy_generator(generator: np.random.Generator | torch.Generator) -> np.random.Generator:
    if isinstance(generator, np.random.Generator):
        return generator
    import torch

    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    return np.random.default_rng(int(seed))
