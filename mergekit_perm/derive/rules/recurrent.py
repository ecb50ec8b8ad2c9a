"""Recurrent layers as one operation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.labels import Labels, Map, Shape, unlabelled
from mergekit_perm.derive.primitives import concatenate, contract, opened, pinned, select
from mergekit_perm.derive.rules.table import Call, NoRule, rule

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@rule(*_GATES)
def recurrent(call: Call) -> list[Labels]:
    """Layers of gates; all gates of a unit, its states and its output move together."""
    if call.get("data") is not None:
        raise NoRule  # packed sequences
    facts, gates = call.facts, _GATES[call.name]
    layers, directions = call["num_layers"], 2 if call["bidirectional"] else 1
    each = len(call["params"]) // (layers * directions)
    if each != (4 if call["has_biases"] else 2):
        raise NoRule  # projections
    given = _states(call["hx"])
    value = _in_order(facts, call["input"])
    final: list[Labels] = []
    for _ in range(layers):
        outputs = []
        for _ in range(directions):
            at = np.array([len(final)])
            initial = [select(facts, _in_order(facts, s), 0, at, drop=True) for s in given]
            weights = call["params"][len(final) * each :][:each]
            units = _units(facts, value, weights, initial, gates)
            outputs.append(_spread(units, value.shape[:-1]))
            final.append(opened(_spread(units, call.shapes[1][1:-1]), 0))
        value = concatenate(facts, outputs, -1)
    return [value, *([concatenate(facts, final, 0, apart=True)] * len(given))]


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(call: Call) -> Labels | list[Labels]:
    """One step of one layer."""
    given = [_in_order(call.facts, state) for state in _states(call["hx"])]
    weights = [call[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh") if call[name] is not None]
    value, gates = _in_order(call.facts, call["input"]), _GATES[call.name.removesuffix("_cell")]
    state = _spread(_units(call.facts, value, weights, given, gates), given[0].shape[:-1])
    return [state, state] if isinstance(call["hx"], list) else state


def _states(given: Labels | list[Labels]) -> list[Labels]:
    return given if isinstance(given, list) else [given]


def _in_order(facts: Facts, value: Labels) -> Labels:
    return pinned(facts, value, range(len(value.axes) - 1), "steps of a sequence")


def _units(
    facts: Facts, value: Labels, weights: Sequence[Labels], states: Sequence[Labels], gates: int
) -> Labels:
    """Return the labels (h,) of the units of one layer in one direction, for `value` (..., i)."""
    size = weights[0].shape[0] // gates
    units = contract(
        facts,
        [(Labels(((size,),), (Map((0,), facts.fresh((size,))),)), "h")]
        + [(state, "abc"[: len(state.axes) - 1] + "h") for state in states],
        "h",
    )
    batch = "abc"[: len(value.axes) - 1]
    rows = [
        contract(facts, [(value, batch + "i"), (weights[0], "oi")], "o"),
        contract(facts, [(units, "h"), (weights[1], "oh")], "o"),
        *weights[2:],
    ]
    for gate in range(gates):
        at = np.arange(gate * size, (gate + 1) * size)
        contract(facts, [(units, "h"), *((select(facts, r, 0, at), "h") for r in rows)], "h")
    return units


def _spread(units: Labels, shape: Shape) -> Labels:
    """Return labels of `units` at every place of `shape`."""
    places = unlabelled(shape)
    count = len(places.sizes)
    maps = tuple(Map((count,), map_.elements) for map_ in units.maps)
    return Labels((*places.axes, *units.axes), maps)
