from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.spec.network_names import network_names


@pytest.mark.parametrize(
    ("references", "names"),
    [
        (["a.safetensors", "runs/b.pth.tar"], ["a", "b"]),
        (["one/model_best.pth.tar", "two/model_best.pth.tar"], ["one", "two"]),
        (["one/last.pth.tar", "one/model_best.pth.tar"], ["one-last", "one-model_best"]),
        (["x/net.pth", "y/net.pth"], ["x-net", "y-net"]),
        (["net.pth", "net.pth"], ["net", "net-2"]),
        (["A.pth", "a.pth"], ["A", "a-2"]),
        (["hf-hub:org/name@v1.0", "local-dir:runs/n.1"], ["name", "n-1"]),
        (["joint.pth", "..pth"], ["joint-2", "network"]),
        (["model.safetensors", "größe.pth"], ["model", "gr-e"]),
    ],
)
def test_names(references: list[str], names: list[str]) -> None:
    assert network_names(references) == names


@given(st.lists(st.text(max_size=12), min_size=1, max_size=5))
def test_names_are_valid_and_distinct(references: list[str]) -> None:
    names = network_names(references)
    assert len({name.lower() for name in names}) == len(references)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) for name in names)
    assert "joint" not in names
