"""Views: coordinates are regrouped, repeated or reordered, and no value changes."""

from __future__ import annotations

from mergekit_perm.derive.labels import Labels, transposed
from mergekit_perm.derive.primitives import broadcast, contract, opened, reshape
from mergekit_perm.derive.rules.table import Call, NoRule, rule


@rule("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "reshape_as", "view_as",
      "_unsafe_view", "ravel")  # fmt: skip
def regroup(call: Call) -> Labels:
    """A row-major view of the same coordinates."""
    return reshape(call.facts, call["self"], call.shape)


@rule("permute", "transpose", "t", "movedim", "swapaxes", "swapdims", "moveaxis", "numpy_T",
      "adjoint", "mT")  # fmt: skip
def reorder(call: Call) -> Labels:
    """The axes in another order."""
    value = call["self"]
    count = len(value.axes)
    order = list(range(count))
    if call.name == "permute":
        order = [dim % count for dim in call["dims"]]
    elif call.name in ("movedim", "moveaxis"):
        order = _moved(count, call["source"], call["destination"])
    elif call.name in ("t", "numpy_T"):
        order.reverse()
    else:
        first, second = _two(call, count)
        order[first], order[second] = order[second], order[first]
    return transposed(value, order)


def _two(call: Call, count: int) -> tuple[int, int]:
    for names in (("dim0", "dim1"), ("axis0", "axis1")):
        if names[0] in call.arguments:
            return call[names[0]] % count, call[names[1]] % count
    return count - 2, count - 1


def _moved(count: int, source: int | list[int], destination: int | list[int]) -> list[int]:
    sources = [source] if isinstance(source, int) else source
    targets = [destination] if isinstance(destination, int) else destination
    placed = {to % count: at % count for at, to in zip(sources, targets, strict=True)}
    rest = iter(axis for axis in range(count) if axis not in placed.values())
    return [placed[axis] if axis in placed else next(rest) for axis in range(count)]


@rule("expand", "expand_as", "broadcast_to")
def expand(call: Call) -> Labels:
    """Axes of length 1 repeated."""
    return broadcast(call["self"], call.shape)


@rule("repeat", "tile")
def repeat(call: Call) -> Labels:
    """The whole tensor several times along each axis."""
    value = call["self"]
    for _ in range(len(call.shape) - len(value.axes)):
        value = opened(value, 0)
    letters, times = "abcdefgh"[: len(value.axes)], "ABCDEFGH"
    out = "".join(times[axis] + letter for axis, letter in enumerate(letters))
    counts = {times[axis]: length // value.shape[axis] for axis, length in enumerate(call.shape)}
    return reshape(call.facts, contract(call.facts, [(value, letters)], out, counts), call.shape)


@rule("repeat_interleave")
def repeat_interleave(call: Call) -> Labels:
    """Each coordinate of an axis several times in a row."""
    value, dim, times = call["self"], call["dim"], call["repeats"]
    if dim is None or not isinstance(times, int):
        raise NoRule
    letters = "abcdefgh"[: len(value.axes)]
    letter = letters[dim % len(letters)]
    out = letters.replace(letter, letter + "R")
    spread = contract(call.facts, [(value, letters)], out, {"R": times})
    return reshape(call.facts, spread, call.shape)


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Labels:
    """Channels (c, r, r) become c channels of an image r times as large."""
    value, r = call["self"], call["upscale_factor"]
    n, channels, h, w = value.shape
    split = reshape(call.facts, value, (n, channels // r**2, r, r, h, w))
    return reshape(call.facts, transposed(split, (0, 1, 4, 2, 5, 3)), call.shape)


@rule("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Labels:
    """Pixels of r x r squares become channels."""
    value, r = call["self"], call["downscale_factor"]
    n, channels, h, w = value.shape
    split = reshape(call.facts, value, (n, channels, h // r, r, w // r, r))
    return reshape(call.facts, transposed(split, (0, 1, 3, 5, 2, 4)), call.shape)


@rule("channel_shuffle")
def channel_shuffle(call: Call) -> Labels:
    """Channels (groups, c) become (c, groups)."""
    value, groups = call["self"], call["groups"]
    n, channels = value.shape[:2]
    split = reshape(call.facts, value, (n, groups, channels // groups, *value.shape[2:]))
    order = (0, 2, 1, *range(3, len(split.axes)))
    return reshape(call.facts, transposed(split, order), value.shape)
