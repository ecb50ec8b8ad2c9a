from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.data.stable_split import stable_split


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.data())
def test_a_partition_with_every_class_in_proportion(labels: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(labels)))
    train, test = stable_split(labels, count)
    assert sorted(train + test) == list(range(len(labels)))
    assert train == sorted(train)
    assert test == sorted(test)
    assert len(test) == count
    everywhere, tested = Counter(labels), Counter(labels[index] for index in test)
    for label, total in everywhere.items():
        assert abs(tested[label] - total * count / len(labels)) < 1


def test_the_split_is_the_same_for_ever() -> None:
    assert stable_split([0] * 10, 3) == ([1, 2, 3, 4, 5, 6, 8], [0, 7, 9])
    assert stable_split([0, 1] * 6, 4) == ([1, 2, 3, 4, 5, 6, 8, 11], [0, 7, 9, 10])
