"""Short words for many tensors: `layer1.*` for all under it, `blocks.0-3` for a run of numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

Parts = tuple[str, ...]


def shortened(names: Sequence[str], among: Iterable[str]) -> list[str]:
    """Return words that mean all of `names`, and none of the others `among` them.

    Args:
        names: of tensors, without repetition.
        among: the names of all tensors there are.
    """
    whole = Counter(prefix for name in among for prefix in _prefixes(name))
    meant = Counter(prefix for name in names for prefix in _prefixes(name))
    covering: dict[Parts, None] = {}
    for name in names:
        own = tuple(name.split("."))
        several = (p for p in _prefixes(name) if meant[p] == whole[p] > 1)
        first = next(several, own)
        covering[own if first == own else (*first, "*")] = None
    words = list(covering)
    for place in range(max(map(len, words), default=0)):
        words = _joined(words, place)
    return [".".join(word) for word in words]


def _prefixes(name: str) -> Iterator[Parts]:
    parts = tuple(name.split("."))
    return (parts[: length + 1] for length in range(len(parts)))


def _joined(words: Sequence[Parts], place: int) -> list[Parts]:
    """Return `words` with those as one that differ at `place` alone, in a run of numbers."""
    alike: dict[tuple[Parts, Parts], list[int]] = {}
    for word in words:
        if place < len(word) and word[place].isdecimal():
            alike.setdefault((word[:place], word[place + 1 :]), []).append(int(word[place]))
    joined: dict[Parts, None] = {}
    for word in words:
        numbers = sorted(alike.get((word[:place], word[place + 1 :]), ()))
        if place < len(word) and word[place].isdecimal() and len(numbers) > 1:
            low = high = int(word[place])
            while low - 1 in numbers:
                low -= 1
            while high + 1 in numbers:
                high += 1
            number = word[place] if low == high else f"{low}-{high}"
            word = (*word[:place], number, *word[place + 1 :])
        joined[word] = None
    return list(joined)
