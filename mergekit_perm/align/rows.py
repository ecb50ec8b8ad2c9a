"""What every element of a group carries, row by row; those of a nested group block after block."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import torch

from mergekit_perm.align.views import Carrier, Nested, State, View, element_rows, views
from mergekit_perm.permspec import PermutationSpec

# Returns what every element of a group carries on one axis of one tensor: (elements, entries).
Rows = Callable[[State], torch.Tensor]


def rows_by_group(
    spec: PermutationSpec, tensors: Collection[str]
) -> dict[str, list[tuple[str, Rows]]]:
    """Return, for every group of bound `spec`, the `tensors` that carry it, and their rows."""
    seen = {view.group: view for view in views(spec, tensors)}
    found = {}
    for name, group in spec.groups.items():
        # A nested group has its elements in the view of the group that it lies within.
        view = seen[name if group.within is None else group.within]
        found[name] = list(_parts(view, None if group.within is None else name))
    return found


def _parts(view: View, nested_group: str | None) -> Iterator[tuple[str, Rows]]:
    for carrier in view.carriers:
        if nested_group is None:
            yield carrier.tensor, _own_rows(carrier)
        for nested in carrier.nested:
            if nested.group == nested_group:
                yield carrier.tensor, _inner_rows(carrier, nested)


def _own_rows(carrier: Carrier) -> Rows:
    return lambda state: carrier.rows(state[carrier.tensor])


def _inner_rows(carrier: Carrier, nested: Nested) -> Rows:
    place = 1 if nested.dim < 0 else carrier.place(nested)

    def rows(state: State) -> torch.Tensor:
        blocks = carrier.blocks(state[carrier.tensor])
        return element_rows(blocks, place, nested.table).flatten(0, 1)

    return rows
