"""Recurrent layers as one operation."""

from __future__ import annotations

import numpy as np

from mergekit_perm.derive.labels import Labels, Map, unlabelled
from mergekit_perm.derive.primitives import concatenate, contract, pinned, select
from mergekit_perm.derive.rules.table import Call, NoRule, rule

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(call: Call) -> list[Labels]:
    """Layers of gates; all gates of a unit, its state and its output move together."""
    if call.get("data") is not None:
        raise NoRule  # packed sequences
    weights, layers = list(call["params"]), call["num_layers"]
    directions = 2 if call["bidirectional"] else 1
    each = len(weights) // (layers * directions)
    if each != (4 if call["has_biases"] else 2):
        raise NoRule  # projections
    value = call["input"]
    value = pinned(call.facts, value, range(len(value.axes) - 1), "steps of a sequence")
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            start = (layer * directions + direction) * each
            outputs.append(_direction(call, value, weights[start : start + each]))
        value = concatenate(call.facts, outputs, len(value.axes) - 1)
    _freeze_states(call)
    return [value, *(unlabelled(shape) for shape in call.shapes[1:])]


def _direction(call: Call, value: Labels, weights: list[Labels]) -> Labels:
    """Return the outputs of one layer in one direction, for `value` (..., inputs)."""
    facts, gates = call.facts, _GATES[call.name]
    size = weights[0].shape[0] // gates
    state = Labels(((size,),), (Map((0,), facts.fresh((size,))),))
    recurrent_product = contract(facts, [(weights[1], "oh"), (state, "h")], "o")
    batch = "abcdef"[: len(value.axes) - 1]
    product = contract(facts, [(value, batch + "i"), (weights[0], "oi")], batch + "o")
    for gate in range(gates):
        at = np.arange(gate * size, (gate + 1) * size)
        rows = [select(facts, w, 0, at) for w in (recurrent_product, *weights[2:])]
        row = select(facts, product, len(batch), at)
        contract(facts, [(row, batch + "h"), *((r, "h") for r in rows), (state, "h")], "h")
    return contract(facts, [(state, "h")], batch + "h", dict(zip(batch, value.shape, strict=False)))


def _freeze_states(call: Call) -> None:
    """An initial state that the caller gives has an order of its own."""
    for labels in call.get("hx") or ():
        if isinstance(labels, Labels):
            for map_ in labels.maps:
                call.facts.freeze(map_.elements, "an initial state")
