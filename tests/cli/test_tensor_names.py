"""Short words for many tensors mean these and no others."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.cli.tensor_names import shortened

BLOCKS = [
    f"blocks.{block}.{part}.{kind}"
    for block in range(12)
    for part in ("attn", "mlp")
    for kind in ("weight", "bias")
]
ALL = ["stem.weight", *BLOCKS, "head.weight", "head.bias"]


def meant(words: list[str], among: list[str]) -> set[str]:
    """What the words mean: `*` for anything below, `1-3` for these numbers."""
    patterns = []
    for word in words:
        parts = [
            ".*" if part == "*"
            else f"({'|'.join(map(str, range(int(run[1]), int(run[2]) + 1)))})"
            if (run := re.fullmatch(r"(\d+)-(\d+)", part))
            else re.escape(part)
            for part in word.split(".")
        ]  # fmt: skip
        patterns.append(re.compile(r"\.".join(parts)))
    return {name for name in among if any(pattern.fullmatch(name) for pattern in patterns)}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (ALL, ["stem.weight", "blocks.*", "head.*"]),
        (["stem.weight"], ["stem.weight"]),
        (["head.bias"], ["head.bias"]),
        (BLOCKS[4:8], ["blocks.1.*"]),
        (BLOCKS[4:20], ["blocks.1-4.*"]),
        ([name for name in BLOCKS if ".attn." in name], ["blocks.0-11.attn.*"]),
        ([name for name in BLOCKS if name.endswith("attn.bias")], ["blocks.0-11.attn.bias"]),
        ([BLOCKS[0], BLOCKS[8], BLOCKS[12]], ["blocks.0.attn.weight", "blocks.2-3.attn.weight"]),
    ],
)
def test_words(names: list[str], words: list[str]) -> None:
    assert shortened(names, ALL) == words


PART = st.sampled_from(["a", "b", "0", "1", "2", "3", "10"])
TREES = st.sets(st.lists(PART, min_size=1, max_size=4).map(".".join), min_size=1, max_size=25)


@given(TREES, st.randoms(use_true_random=False))
def test_they_mean_these_and_no_others(names: set[str], random: object) -> None:
    # A tensor's name is no part of another's.
    among = [n for n in sorted(names) if not any(o.startswith(f"{n}.") for o in names)]
    chosen = [name for name in among if random.random() < 0.5]  # type: ignore[attr-defined]
    words = shortened(chosen, among)
    assert meant(words, among) == set(chosen)
    assert len(words) == len(set(words)) <= len(chosen)


def test_a_name_may_be_part_of_another() -> None:
    assert shortened(["a"], ["a", "a.b"]) == ["a"]
