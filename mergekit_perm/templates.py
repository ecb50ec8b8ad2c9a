"""Repeated entries of a permutation spec: `blocks.{i:0..11}.mlp` stands for twelve names.

`{i:0..11}` in a key repeats the entry; `{i}`, `{i+1}` and `{i-1}` elsewhere in the entry are that
index. Ranges include both ends; `{i:0,2,5..7}` lists them.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator

from mergekit_perm.errors import PermutationSpecError

_DECLARED = re.compile(r"\{(\w+):([^{}]*)\}")
_USED = re.compile(r"\{(\w+)([+-]\d{1,9})?\}")
_RANGE = re.compile(r"(\d{1,9})(?:\.\.(\d{1,9}))?")

# More names than any network has tensors; a slip in a range must not fill the memory.
_MOST_NAMES = 100_000


def expansions(key: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield (name, indices) for every name that `key` stands for; `key` itself when it is plain.

    Raises:
        PermutationSpecError: for a range that cannot be read, an index that is not declared or is
            declared twice, or more than 100,000 names.
    """
    declared: dict[str, list[int]] = {}
    for name, text in _DECLARED.findall(key):
        if name in declared:
            raise PermutationSpecError(f"'{key}': index '{name}' is declared twice")
        declared[name] = _values(name, text)
    if math.prod(map(len, declared.values())) > _MOST_NAMES:
        raise PermutationSpecError(f"'{key}' stands for more than {_MOST_NAMES:,} names")
    plain = _DECLARED.sub(lambda match: "{" + match[1] + "}", key)
    for choice in itertools.product(*declared.values()):
        indices = dict(zip(declared, choice, strict=True))
        yield substitute(plain, indices), indices


def substitute(text: str, indices: dict[str, int]) -> str:
    """Return `text` with `{i}`, `{i+1}`, `{i-1}` replaced by numbers."""

    def number(match: re.Match[str]) -> str:
        if match[1] not in indices:
            raise PermutationSpecError(
                f"'{text}': index '{match[1]}' is not declared; the key of the entry declares it, "
                f"as in {{{match[1]}:0..11}}"
            )
        return str(indices[match[1]] + int(match[2] or 0))

    return _USED.sub(number, text)


def _values(name: str, text: str) -> list[int]:
    values: list[int] = []
    wanted = "expected a range such as 0..11, or a list such as 0,2,5..7"
    for item in text.split(","):
        match = _RANGE.fullmatch(item.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise PermutationSpecError(f"{{{name}:{text}}}: {wanted}")
        numbers = range(int(match[1]), int(match[2] or match[1]) + 1)
        if len(values) + len(numbers) > _MOST_NAMES:
            raise PermutationSpecError(f"{{{name}:{text}}}: more than {_MOST_NAMES:,} numbers")
        values.extend(numbers)
    return values
