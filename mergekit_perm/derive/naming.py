"""What groups are called: after the modules that produce them.

layer1.0.conv1         the outputs of one module
blocks.3.mlp           a hidden layer: the outputs of `blocks.3.mlp.fc1`
layer2, blocks.1.0     what several modules write to, after the part of the network they share
stream                 a residual stream that runs through all of the network
blocks.3.attn.heads    blocks of channels: heads, or `.groups` of a grouped convolution
blocks.3.attn.qk, .vo  in each head, what queries and keys share, and what values and the
                       projection share
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from mergekit_perm.axis_text import is_name
from mergekit_perm.derive.cells import Cells
from mergekit_perm.derive.facts import Facts, Origin
from mergekit_perm.derive.structure import GroupCell, ProductCell, Structure

# Modules whose names say less than that of the module they are in.
_PLAIN = frozenset({"fc1", "w1", "w12", "linear1", "linear_1"})


@dataclass(slots=True)
class _Uses:
    """Where a cell stands.

    Attributes:
        writers: modules with a weight whose first axis it stands on, in order.
        others: every other module that it stands in.
        read: whether it stands on a later axis of a weight.
        grouped: whether it stands within the groups of a convolution.
    """

    writers: dict[str, None] = field(default_factory=dict)
    others: dict[str, None] = field(default_factory=dict)
    read: bool = False
    grouped: bool = False

    @property
    def modules(self) -> list[str]:
        return list(self.writers) or list(self.others)


def group_names(facts: Facts, cells: Cells, structure: Structure) -> dict[int, str]:
    """Return a name for every cell that is a group, in the order in which they first occur."""
    namer = _Namer(facts, cells, structure)
    groups = [c for c, form in sorted(structure.forms.items()) if isinstance(form, GroupCell)]
    taken: set[str] = set()
    return {cell: _free(namer.wanted(cell), taken) for cell in groups}


class _Namer:
    def __init__(self, facts: Facts, cells: Cells, structure: Structure) -> None:
        self.structure = structure
        self.uses = _uses(facts, cells)
        self.inside: dict[int, list[int]] = defaultdict(list)
        for cell, form in sorted(structure.forms.items()):
            for outer in form.outer:
                self.inside[outer].append(cell)

    def wanted(self, cell: int) -> str:
        modules = self.uses[cell].modules
        if self.is_heads(cell):
            return self.beside(cell, "heads")
        if not modules:
            return self.beside(cell, "groups")
        if any(self.is_heads(block) for block in self.around(cell)):
            products = [
                c for c in self.inside[cell] if isinstance(self.structure.forms[c], ProductCell)
            ]
            read = any(self.uses[c].read for c in products or [cell])
            return f"{_parent(modules[0])}.{'vo' if read else 'qk'}"
        return _shared(modules)

    def beside(self, cell: int, kind: str) -> str:
        """Return a name for blocks: that of the module which holds the modules they occur in."""
        within = [m for other in self.inside[cell] for m in self.uses[other].modules]
        return f"{_parent(within[0])}.{kind}" if within else "group"

    def grouped(self, cell: int) -> bool:
        return any(self.uses[other].grouped for other in self.inside[cell])

    def is_heads(self, cell: int) -> bool:
        """Tell whether a cell is blocks of coordinates that are no groups of a convolution."""
        nested = any(isinstance(self.structure.forms[c], GroupCell) for c in self.inside[cell])
        return (nested or not self.uses[cell].modules) and not self.grouped(cell)

    def around(self, cell: int) -> list[int]:
        """Return what a cell is nested in, and what it makes products with."""
        products = [
            form
            for form in (self.structure.forms[other] for other in self.inside[cell])
            if isinstance(form, ProductCell)
        ]
        forms = [self.structure.forms[cell], *products]
        return [outer for form in forms for outer in form.outer if outer != cell]


def _uses(facts: Facts, cells: Cells) -> dict[int, _Uses]:
    found: dict[int, _Uses] = defaultdict(_Uses)
    axes = {origin.name: origin.axis + 1 for origin in facts.origins if origin.name}
    for origin in facts.origins:
        if origin.name:
            elements = slice(origin.start, origin.start + origin.count)
            for cell in np.unique(cells.cell[elements]).tolist():
                _note(found[cell], origin, axes[origin.name])
    return found


def _note(uses: _Uses, origin: Origin, axes: int) -> None:
    module, parametrised, _ = origin.name.partition(".parametrizations.")
    if not parametrised:
        module = origin.name.rpartition(".")[0] or origin.name
    if origin.axis == 0 and axes > 1:
        uses.writers[module] = None
    else:
        uses.others[module] = None
        uses.read |= origin.axis > 0
        uses.grouped |= origin.blocks > 1


def _shared(modules: Iterable[str]) -> str:
    """Return the name of one module, or what the names of several begin with.

    The first of several may be a stem that writes to the stream of the stage after it; a part of
    the network without a number in its name is all of it.
    """
    first, *rest = modules
    if not rest:
        parent, _, last = first.rpartition(".")
        return parent if parent and last in _PLAIN else first
    for chosen in ([first, *rest], rest):
        common = _common_start(chosen)
        if any(character.isdigit() for character in common):
            return common.removesuffix(".blocks").removesuffix(".layers")
    return "stream"


def _common_start(names: list[str]) -> str:
    columns = zip(*(name.split(".") for name in names), strict=False)
    same = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
    return ".".join(column[0] for column in same)


def _parent(module: str) -> str:
    return module.rpartition(".")[0] or module


def _free(wanted: str, taken: set[str]) -> str:
    """Return `wanted`, made a name that no other group has."""
    wanted = wanted if is_name(wanted) else "group"
    choices = itertools.chain([wanted], (f"{wanted}_{number}" for number in itertools.count(2)))
    name = next(choice for choice in choices if choice not in taken)
    taken.add(name)
    return name
