"""How deep in a network a tensor sits, told by its name: what gradients over depth go by."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Top-level modules that stand before and behind the blocks, wherever a state dict lists them.
STEM = re.compile(
    r"(conv_stem|stem|patch_embed\w*|pos_embed\w*|embed\w*|cls_token|dist_token|reg_token|"
    r"register_tokens|norm_pre|conv1|bn1|conv0|norm0)$"
)
HEAD = re.compile(
    r"(head\w*|fc|classifier\w*|pre_logits|last_linear|fc_norm|norm|conv_head|final_conv|bn2|norm5|"
    r"aux\w*)$"
)

_NUMBER = re.compile(r"\d+$|\w*(block|layer|stage)s?_?\d+$|[a-z]\d+$", re.IGNORECASE)
_NESTED = re.compile(r"(blocks?|layers?|units?)$")


def depths(names: Iterable[str]) -> dict[str, float]:
    """Return the relative depth of every tensor of `names`: 0 at the first block, 1 at the last.

    A block is what a name says up to its numbers: ``blocks.7``, ``layer3.1``,
    ``stages.2.blocks.0``. Blocks are in the order of their numbers, their containers in the order
    of `names`. The stem sits at 0 and the head at 1: they are known by common names (`STEM`,
    `HEAD`); any other tensor outside of blocks sits where the block before it does. In a network
    without numbers every top-level module is a block.

    Args:
        names: of the tensors of one network, in its order.
    """
    listed = list(names)
    blocks = {name: block_of(name) for name in listed}
    if not any(blocks.values()):
        blocks = {name: name.partition(".")[0] for name in listed}
    place = _places(dict.fromkeys(block for block in blocks.values() if block))
    result, here = {}, 0.0
    for name in listed:
        here = place.get(blocks[name], here)
        result[name] = here if blocks[name] else _outside(name, here)
    return result


def block_of(name: str) -> str:
    """Return the block that the tensor called `name` belongs to, or ``""``."""
    parts = name.split(".")[:-1]
    if not parts or STEM.match(parts[0]) or HEAD.match(parts[0]):
        return ""
    start = next((i for i, part in enumerate(parts) if _NUMBER.match(part)), None)
    if start is None:
        return ""
    end = start + 1
    while end < len(parts):
        if parts[end].isdigit() or (_NUMBER.match(parts[end]) and not STEM.match(parts[end])):
            end += 1
        elif _NESTED.match(parts[end]) and end + 1 < len(parts) and parts[end + 1].isdigit():
            end += 2
        else:
            break
    return ".".join(parts[:end])


def _places(blocks: Iterable[str]) -> dict[str, float]:
    """Return the relative depth of every block."""
    tops: dict[str, int] = {}
    for block in blocks:
        tops.setdefault(_top(block), len(tops))
    ordered = sorted(blocks, key=lambda block: (tops[_top(block)], _natural(block)))
    last = max(len(ordered) - 1, 1)
    return {block: index / last for index, block in enumerate(ordered)}


def _top(block: str) -> str:
    return re.sub(r"\d+$", "", block.partition(".")[0])


def _natural(block: str) -> list[tuple[int, str]]:
    """Return a key that sorts 2 before 10."""
    pieces = re.findall(r"\d+|\D+", block)
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces]


def _outside(name: str, here: float) -> float:
    top = name.partition(".")[0]
    if STEM.match(top):
        return 0.0
    return 1.0 if HEAD.match(top) else here
