"""Deriving the permutation spec of a network: trace, interpret, solve, read out.

trace      the graph of its operations                                 (trace)
interpret  what they state about the coordinates of parameters         (interpret, rules)
solve      sets of coordinates that may be permuted, as groups         (cells, structure)
read out   the groups' names, and every axis in the axis language      (naming, readout)
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mergekit_perm import axes, networks, tensor_action
from mergekit_perm.axes import Axis, Block, Fixed
from mergekit_perm.derive.cells import Cells, find_cells
from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.inputs import Inputs
from mergekit_perm.derive.interpret import Interpretation, interpret
from mergekit_perm.derive.labels import Map
from mergekit_perm.derive.naming import group_names
from mergekit_perm.derive.readout import NotExpressibleError, Reader
from mergekit_perm.derive.reasons import Reasons
from mergekit_perm.derive.structure import GroupCell, Structure, find_structure
from mergekit_perm.derive.trace import Graph, trace
from mergekit_perm.errors import DerivationError, PermutationSpecError
from mergekit_perm.groups import Group, Groups
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Indices
from mergekit_perm.sections import sections


@dataclass(frozen=True, slots=True)
class Derivation:
    """A derived permutation spec and how it came about.

    Attributes:
        spec: bound to the network's tensors, with the reason for every axis that stays fixed.
        unruled: operations without a rule, which froze what they touch, with how often they occur.
        ruled: how often each rule was used.
        seconds: wall time of "build", "trace" and "solve" (all after tracing).
    """

    spec: PermutationSpec
    unruled: Mapping[str, int]
    ruled: Mapping[str, int]
    seconds: Mapping[str, float]


def derive(
    architecture: str | nn.Module,
    options: Mapping[str, Any] = {},
    *,
    inputs: Inputs | None = None,
    strict: bool = False,
) -> PermutationSpec:
    """Return the permutation spec of a network, derived from the operations it performs.

    The largest group that the rules can prove: what they cannot prove stays fixed, with the reason
    under `fixed`. Prove the outcome with `verify`. Permutation symmetries of networks are those of
    Git Re-Basin (arXiv 2209.04836).

    Args:
        architecture: what `networks.build` builds, or a module, which is left as it is.
        options: of the architecture; those that only fetch weights are left out.
        inputs: one batch, a sequence of arguments of the forward pass, or a mapping of them by
            name; by default made from the shape that the network says it takes.
        strict: refuse a network with an operation that has no rule.

    Raises:
        DerivationError: the network cannot be traced; or `strict`, naming the operations.
        NetworkError: the architecture cannot be built.
    """
    return derivation(architecture, options, inputs=inputs, strict=strict).spec


def derivation(
    architecture: str | nn.Module,
    options: Mapping[str, Any] = {},
    *,
    inputs: Inputs | None = None,
    strict: bool = False,
) -> Derivation:
    """Return what `derive` returns, and how it came about; arguments and errors as there."""
    began = time.perf_counter()
    options = networks.without_weight_options(options)
    name = architecture if isinstance(architecture, str) else None
    if isinstance(architecture, str):
        module = networks.skeleton(architecture, options)
    else:
        module = architecture
    if inputs is None:
        inputs = networks.example_inputs(module)
    if inputs is None:
        inputs = torch.zeros(2, *networks.input_shape(module, options))
    built = time.perf_counter()
    graphs = _traced(module, inputs)
    traced = time.perf_counter()
    found = interpret(graphs, module)
    if strict and found.unruled:
        named = (
            f"{op} ({n}x{found.places[op] and f', first in {found.places[op]}'})"
            for op, n in found.unruled.items()
        )
        raise DerivationError(
            f"no rule for {', '.join(named)}; without `strict` what they touch stays fixed"
        )
    spec = _spec(found, module, name, options)
    seconds = {
        "build": built - began,
        "trace": traced - built,
        "solve": time.perf_counter() - traced,
    }
    return Derivation(spec, dict(found.unruled), dict(found.ruled), seconds)


def _traced(module: nn.Module, inputs: Inputs) -> list[Graph]:
    """Return the graph of evaluation, and that of training where it may read more parameters."""
    graphs = [trace(module, inputs)]
    if graphs[0].unread:
        with suppress(DerivationError):  # they stay as they are
            graphs.append(trace(module, inputs, training=True))
    return graphs


# ------------------------------------------------------------------------------------- solving


def _spec(
    found: Interpretation, module: nn.Module, name: str | None, options: Mapping[str, Any]
) -> PermutationSpec:
    """Return the spec of the largest group that the facts leave and the axis language can say."""
    kept: set[int] = set()
    while True:
        cells = find_cells(found.facts)
        structure = find_structure(cells)
        if (
            _pin_tangled(found.facts, cells, structure)
            or _pin_idle(found.facts, cells, structure)
            or _pin_dropped(found.facts, cells, structure)
        ):
            continue
        try:
            return _read(found, cells, structure, module, name, options)
        except NotExpressibleError as error:
            for elements in error.elements:
                _keep_blocks(found.facts, elements, kept)


def _pin_tangled(facts: Facts, cells: Cells, structure: Structure) -> bool:
    """Freeze what cannot be a group; tell whether there was any.

    The smallest cells are frozen at first: with blocks in their places, what lies in them may move.
    """
    # Cells that others lie in at once may have no elements of their own.
    tangled = structure.tangled & set(np.unique(cells.cell).tolist())
    smallest = min((cells.sizes[cell] for cell in tangled), default=0)
    for cell in sorted(cell for cell in tangled if cells.sizes[cell] == smallest):
        elements = np.flatnonzero(cells.cell == cell)
        facts.freeze(elements, "mixed in an order that no permutation keeps")
    return bool(tangled)


def _keep_blocks(facts: Facts, elements: Indices, kept: set[int]) -> None:
    """Keep the blocks of an axis in their places, what moves within them as well the second time.

    Args:
        facts: of the network.
        elements: those of the axis, shape (blocks, size).
        kept: the first element of every axis whose blocks are kept already.
    """
    reason = "moves in a way that the axis language cannot say"
    first = int(elements[0, 0])
    if first in kept:
        facts.freeze(elements, reason)
    else:
        facts.pin(Map((0, 1), elements), 0, reason)
    kept.add(first)


def _pin_idle(facts: Facts, cells: Cells, structure: Structure) -> bool:
    """Keep the order within groups that only say that a tensor repeats itself.

    Those stand on one axis alone, of weights that meet equal values: the network depends on their
    sum, whatever their order. Tell whether there was any such group.
    """
    alike = {int(cell) for elements in facts.alike for cell in np.unique(cells.cell[elements])}
    places = _places(facts, cells, structure)
    idle = [cell for cell, count in places.items() if count == 1 and cell in alike]
    for cell in idle:
        form = structure.forms[cell]
        assert isinstance(form, GroupCell)
        elements = np.flatnonzero(cells.cell == cell)
        positions = facts.positions(form.size, "meets the same values")
        facts.project(elements, positions[form.index[cells.place[elements]] % form.size])
    return bool(idle)


def _pin_dropped(facts: Facts, cells: Cells, structure: Structure) -> bool:
    """Freeze groups that reach no output: of channels cut off, say. Tell whether there were any."""
    summed = {int(cell) for elements in facts.summed for cell in np.unique(cells.cell[elements])}
    moving = summed & set(structure.forms)
    alive = {outer for cell in moving for outer in structure.enclosing(cell)}
    dropped = [c for c, f in structure.forms.items() if isinstance(f, GroupCell) and c not in alive]
    for cell in dropped:
        facts.freeze(np.flatnonzero(cells.cell == cell), "reaches no output")
    return bool(dropped)


def _places(facts: Facts, cells: Cells, structure: Structure) -> dict[int, int]:
    """Return for every group on how many axes it stands, or groups and products within it do."""
    counts = np.zeros(len(cells.sizes), dtype=np.int64)
    for origin in facts.origins:
        if origin.name:
            elements = slice(origin.start, origin.start + origin.count)
            counts += np.bincount(cells.cell[elements], minlength=len(counts))
    places = {cell: 0 for cell, form in structure.forms.items() if isinstance(form, GroupCell)}
    for cell in structure.forms:
        for outer in structure.enclosing(cell):
            if outer in places:
                places[outer] += int(counts[cell]) // cells.sizes[cell]
    return places


def _read(
    found: Interpretation,
    cells: Cells,
    structure: Structure,
    module: nn.Module,
    name: str | None,
    options: Mapping[str, Any],
) -> PermutationSpec:
    names = group_names(found.facts, cells, structure)
    reader = Reader(cells, structure, names)
    reasons = Reasons(found.facts, cells, found.readers)
    rows: dict[str, tuple[Axis, ...]] = {}
    fixed: dict[str, str] = {}
    for tensor, elements in _elements(found).items():
        row = tuple(
            Fixed(length) if along is None else _axis(reader, along)
            for length, along in zip(found.tensors[tensor], elements, strict=True)
        )
        if not all(isinstance(axis, Fixed) for axis in row):
            rows[tensor] = row
        text = reasons.text(tensor, elements)
        if text:
            fixed[tensor] = text
    groups = _groups(structure, names, rows)
    stuck = _inexpressible(rows, groups, _elements(found), cells, structure)
    if stuck:
        raise NotExpressibleError(*stuck)
    state = module.state_dict()
    rows, fixed = _for_all_names(module, rows), _for_all_names(module, fixed)
    rows = {tensor: rows[tensor] for tensor in state if tensor in rows}
    return PermutationSpec(
        groups=groups,
        axes=rows,
        architecture=name,
        options=dict(options),
        fixed={tensor: fixed[tensor] for tensor in state if tensor in fixed},
    ).bind({tensor: tuple(value.shape) for tensor, value in state.items()})


def _axis(reader: Reader, elements: Indices) -> Axis:
    return reader.axis(elements) if elements.ndim == 1 else reader.inner_axis(elements)


def _inexpressible(
    rows: Mapping[str, tuple[Axis, ...]],
    groups: Groups,
    elements: Mapping[str, list[Indices | None]],
    cells: Cells,
    structure: Structure,
) -> list[Indices]:
    """Return the elements of axes whose blocks move in a way that `inner` cannot say.

    Of axes that have to do with one another only the first: the others may be right without it.
    """
    found: list[Indices] = []
    touched: set[int] = set()
    for tensor, row in rows.items():
        for axis, along in zip(row, elements[tensor], strict=True):
            if isinstance(axis, Block) and along is not None and not _is_expressible(row, groups):
                moving = set(np.unique(cells.cell[along]).tolist()) & set(structure.forms)
                around = {outer for cell in moving for outer in structure.enclosing(cell)}
                if not around & touched:
                    found.append(along)
                touched |= around
    return found


def _is_expressible(row: tuple[Axis, ...], groups: Groups) -> bool:
    try:
        tensor_action.check_closed(row, groups)
        sections(row, groups)
    except PermutationSpecError:
        return False
    return True


def _elements(found: Interpretation) -> dict[str, list[Indices | None]]:
    """Return for every tensor, and axis longer than 1, its elements: (size,) or (blocks, size)."""
    result: dict[str, list[Indices | None]] = {
        name: [None] * len(shape) for name, shape in found.tensors.items()
    }
    for origin in found.facts.origins:
        if origin.name:
            along = np.arange(origin.start, origin.start + origin.count)
            blocks = along.reshape(origin.blocks, -1)
            result[origin.name][origin.axis] = blocks if origin.blocks > 1 else along
    return result


def _for_all_names(module: nn.Module, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return `entries` with one for every name of a tied parameter."""
    tensors = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    known = {id(tensors[name]): entry for name, entry in entries.items()}
    return {name: known[id(t)] for name, t in tensors.items() if id(t) in known}


def _groups(
    structure: Structure, names: Mapping[int, str], rows: Mapping[str, tuple[Axis, ...]]
) -> Groups:
    """Return the groups that the axes name and those these are nested in, outer ones first."""
    used = {group for row in rows.values() for axis in row for group in axes.names(axis)}
    groups: dict[str, Group] = {}

    def add(cell: int) -> None:
        form = structure.forms[cell]
        assert isinstance(form, GroupCell)
        if form.within is not None:
            add(form.within)
        outer = None if form.within is None else names[form.within]
        groups.setdefault(names[cell], Group(names[cell], form.size, outer))

    for cell, name in names.items():
        if name in used:
            add(cell)
    return Groups(groups)
