"""Scaled dot product attention as one operation."""

from __future__ import annotations

from mergekit_perm.derive.labels import Labels
from mergekit_perm.derive.primitives import combine, contract, normalise, pinned, reshape
from mergekit_perm.derive.rules.table import Call, rule


@rule("scaled_dot_product_attention")
def scaled_dot_product_attention(call: Call) -> Labels:
    """softmax(q k^T + mask) v: q and k share their last axis, heads are in front."""
    facts, query, key, value = call.facts, call["query"], call["key"], call["value"]
    if call.get("enable_gqa") and key.shape[-3] != query.shape[-3]:
        key, value = (_repeated(call, labels, query.shape[-3]) for labels in (key, value))
    batch = "abcdef"[: len(query.axes) - 2]
    if call.get("is_causal"):
        query, key, value = (
            pinned(facts, labels, [-2], "ordered by a causal mask")
            for labels in (query, key, value)
        )
    scores = contract(facts, [(query, batch + "ld"), (key, batch + "sd")], batch + "ls")
    if isinstance(call["attn_mask"], Labels):
        scores = combine(facts, scores.shape, [scores, call["attn_mask"]])
    scores = normalise(facts, scores, [-1])
    return contract(facts, [(scores, batch + "ls"), (value, batch + "sv")], batch + "lv")


def _repeated(call: Call, labels: Labels, heads: int) -> Labels:
    """Return keys or values with each head repeated for the queries that share it."""
    axis = len(labels.axes) - 3
    shape = labels.shape
    times = heads // shape[axis]
    wide = (*shape[: axis + 1], times, *shape[axis + 1 :])
    letters = "abcdefgh"[: len(shape)]
    out = letters[: axis + 1] + "r" + letters[axis + 1 :]
    spread = contract(call.facts, [(labels, letters)], out, {"r": times})
    assert spread.shape == wide
    return reshape(call.facts, spread, (*shape[:axis], heads, *shape[axis + 1 :]))
