"""Matrix products: contracted axes move alike in both operands."""

from __future__ import annotations

from collections.abc import Sequence

from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.labels import Labels
from mergekit_perm.derive.primitives import contract
from mergekit_perm.derive.rules.table import Call, NoRule, rule

_BATCH = "abcdefgh"


@rule("linear")
def linear(call: Call) -> Labels:
    """`input` (..., i) times `weight` (o, i), plus `bias` (o)."""
    value = call["input"]
    batch = _BATCH[: len(value.axes) - 1]
    product = contract(call.facts, [(value, batch + "i"), (call["weight"], "oi")], batch + "o")
    return with_bias(call.facts, product, call["bias"], -1)


def with_bias(facts: Facts, value: Labels, bias: Labels | None, axis: int) -> Labels:
    """Return `value` with a vector added along `axis`."""
    if bias is None:
        return value
    letters = "abcdefgh"[: len(value.axes)]
    return contract(facts, [(value, letters), (bias, letters[axis])], letters)


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot")
def matmul(call: Call) -> Labels:
    """Products over the last axis of one and the last but one of the other."""
    left, right = call.labels()
    batch = _BATCH[: max(len(left.axes), len(right.axes), 2) - 2]
    spelled_left = _last(batch, len(left.axes) - 2) + ("xy" if len(left.axes) > 1 else "y")
    spelled_right = _last(batch, len(right.axes) - 2) + ("yz" if len(right.axes) > 1 else "y")
    out = batch + "x" * (len(left.axes) > 1) + "z" * (len(right.axes) > 1)
    return contract(call.facts, [(left, spelled_left), (right, spelled_right)], out)


def _last(letters: str, count: int) -> str:
    return letters[len(letters) - max(count, 0) :] if count > 0 else ""


@rule("addmm", "baddbmm")
def addmm(call: Call) -> Labels:
    """A product added to another tensor."""
    operands = call.labels()
    letters = "axy"[-len(operands[1].axes) :]
    product = contract(
        call.facts,
        [(operands[1], letters), (operands[2], letters[:-2] + "yz")],
        letters[:-2] + "xz",
    )
    added = letters[:-2] + "xz"
    return contract(
        call.facts, [(product, added), (operands[0], added[-len(operands[0].axes) :])], added
    )


@rule("bilinear")
def bilinear(call: Call) -> Labels:
    """`input1` (..., i) times `weight` (o, i, j) times `input2` (..., j), plus `bias` (o)."""
    one, other = call["input1"], call["input2"]
    batch = _BATCH[: len(one.axes) - 1]
    operands = [(one, batch + "i"), (call["weight"], "oij"), (other, batch + "j")]
    return with_bias(call.facts, contract(call.facts, operands, batch + "o"), call["bias"], -1)


@rule("outer")
def outer(call: Call) -> Labels:
    """All products of the entries of two vectors."""
    left, right = call.labels()
    return contract(call.facts, [(left, "x"), (right, "y")], "xy")


@rule("einsum")
def einsum(call: Call) -> Labels:
    """Any product of tensors, spelled out."""
    equation, operands = call["equation"].replace(" ", ""), call["tensors"]
    inputs, arrow, out = equation.partition("->")
    if not arrow:
        raise NoRule
    return contract(call.facts, *_spelled(inputs.split(","), out, operands))


def _spelled(
    inputs: Sequence[str], out: str, operands: Sequence[Labels]
) -> tuple[list[tuple[Labels, str]], str]:
    """Return operands with their letters, and the result's, an ellipsis written out."""
    spare = [letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter not in "".join(inputs)]
    longest = 0
    result = []
    for spelled, labels in zip(inputs, operands, strict=True):
        if len(set(spelled.replace("...", ""))) < len(spelled.replace("...", "")):
            raise NoRule  # a diagonal
        if "..." in spelled:
            count = len(labels.axes) - len(spelled) + 3
            longest = max(longest, count)
            spelled = spelled.replace("...", "".join(spare[:longest][longest - count :]))
        result.append((labels, spelled))
    return result, out.replace("...", "".join(spare[:longest]))
