"""A sound spec with anything at all in place of one of its values loads, or is refused in words."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_perm.errors import SpecError
from mergekit_perm.spec import loads
from mergekit_perm.yaml_document import dump

SOUND: dict[str, Any] = {
    "format": "perm-merge/run@1",
    "name": "x",
    "architecture": "mlp",
    "options": {"hidden": [1, 2]},
    "data": {"source": "digits", "root": "there", "options": {"size": 32}},
    "networks": {
        "a": {"train": {"seed": 0, "epochs": 3, "augment": {"crop": 1}, "milestones": [1]}},
        "b": {"checkpoint": "local-dir:b", "ema": True, "options": {"x": None}},
        "c": {"train": {"seed": 1}, "architecture": "mlp"},
    },
    "train": {"schedule": "step", "milestones": [1, 2], "augment": {"flip": True, "noise": 0.5}},
    "align": {"reference": "a", "method": "weight_matching", "permutations": "auto", "seed": 1},
    "merge": [
        {"name": "m", "method": "linear", "networks": ["a", "b"]},
        {"name": "n", "method": "linear", "parameters": {"weight": {"a": 1, "b": 2, "c": 3}}},
        {
            "name": "o",
            "method": "ties",
            "base_model": "a",
            "networks": ["b", "c"],
            "parameters": {
                "density": [{"filter": "glob:x*", "value": [0, 0.5]}, {"value": 1}],
                "weight": {"b": 1, "c": [{"filter": "regex:x", "value": 2}]},
                "normalize": False,
            },
        },
    ],
    "evaluate": {
        "splits": ["train", "test"],
        "pairs": [["a", "b"], ["b", "c"]],
        "simplex": {"grid": 2},
        "calibration": ["none", "batch_norm"],
        "device": "cuda:1",
    },
    "gates": [{"barrier": "pair", "metric": "loss", "split": "test", "at_most": 0.1}],
}

VALUES = [
    *(None, True, False, 0, 1, -1, 2**70, 0.5, 5.0, -1e-3, float("inf"), float("nan")),
    *("", "a", "auto", "joint", "all", "5", "yes", "hf-hub:x", "\x00", "é" * 300, "x" * 99, "~"),
    *([], {}, [[]], [{}], ["a", "b"], ["a", "a"], [1], [None]),
    *({"": 1}, {"a": {}}, {"a": 1}, {"seed": 0}, {"train": {"seed": 0}}),
]


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


def changed(path: tuple[Any, ...], value: Any) -> Any:
    result = {"root": copy.deepcopy(SOUND)}
    here: Any = result
    for key in ("root", *path)[:-1]:
        here = here[key]
    here[("root", *path)[-1]] = value
    return result["root"]


def test_the_spec_is_sound() -> None:
    assert loads(dump(SOUND)).pairs == (("a", "b"), ("b", "c"))


@settings(max_examples=200)
@given(st.sampled_from(list(places(SOUND))), st.sampled_from(VALUES))
def test_it_loads_or_is_refused(path: tuple[Any, ...], value: Any) -> None:
    try:
        spec = loads(dump(changed(path, value)), file="f")
    except SpecError as error:
        check(str(error))
    else:
        assert set(spec.networks) >= {name for pair in spec.pairs for name in pair}


@settings(max_examples=100)
@given(
    st.sampled_from(list(places(SOUND))), st.sampled_from(["epochs", "nme", "slices", "a b", "0"])
)
def test_a_key_anywhere(path: tuple[Any, ...], key: str) -> None:
    here: Any = SOUND
    for step in path:
        here = here[step]
    if not isinstance(here, dict):
        here = {}
    try:
        loads(dump(changed(path, {**here, key: 1})), file="f")
    except SpecError as error:
        check(str(error))


def check(message: str) -> None:
    *blocks, last = message.split("\n\n")
    assert last == f"{len(blocks)} problem{'s' * (len(blocks) > 1)} in f; nothing was run."
    for block in blocks:
        lines = block.splitlines()
        assert re.match(r"f:\d+:\d+: ", lines[0])
        assert all(line.startswith("    ") for line in lines[1:])
        assert "something else" not in block
        assert not re.search(r"<(text|number|list|mapping|bool)>|\[key\]|Input should", block)
