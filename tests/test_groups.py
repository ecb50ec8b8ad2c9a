from __future__ import annotations

import pytest

from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.groups import Group, Groups
from tests.group_examples import some_groups


def test_groups_know_lengths_chains_children_and_labels() -> None:
    groups = some_groups()
    assert {name: groups.length(name) for name in groups} == {
        "vo": 15,
        "g": 4,
        "heads": 3,
        "deep": 30,
        "qk": 6,
    }
    assert groups.offsets == {"vo": 0, "g": 15, "heads": 19, "deep": 22, "qk": 52}
    assert groups.total == 58
    assert [group.name for group in groups.chain("deep")] == ["deep", "vo", "heads"]
    assert groups.children("heads") == ["vo", "qk"]
    assert groups.children("g") == []
    assert groups.top() == ["g", "heads"]
    assert len(groups) == 5


def test_groups_are_a_mapping_that_names_what_is_missing() -> None:
    groups = some_groups()
    assert "heads" in groups
    assert "head" not in groups
    assert groups == some_groups()
    assert groups != Groups({})
    with pytest.raises(PermutationSpecError) as caught:
        groups["head"]
    assert str(caught.value) == "no group 'head' (did you mean 'heads'?)"


def test_a_group_within_an_unknown_one() -> None:
    with pytest.raises(PermutationSpecError) as caught:
        Groups({"a": Group("a", 2, "bb"), "b": Group("b", 2)})
    assert str(caught.value) == "no group 'bb' (did you mean 'b'?)"


def test_a_group_within_itself() -> None:
    for circle in (
        {"b": Group("b", 2, "b")},
        {"a": Group("a", 2, "b"), "b": Group("b", 2, "c"), "c": Group("c", 2, "b")},
    ):
        with pytest.raises(PermutationSpecError) as caught:
            Groups(circle)
        assert str(caught.value) == "group 'b' lies within itself"
