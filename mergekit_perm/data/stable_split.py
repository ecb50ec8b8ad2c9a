"""A split into training and test examples that is the same for ever."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence


def stable_split(labels: Sequence[int], test: int) -> tuple[list[int], list[int]]:
    """Return indices of training and of test examples, every class in proportion.

    The order within a class comes from a hash of the index, so that it depends on no library's
    random numbers. Remainders go to the classes with the largest ones, first classes first.

    Args:
        labels: the class of every example.
        test: how many test examples there are in all.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    shares = {label: len(own) * test / len(labels) for label, own in sorted(members.items())}
    counts = {label: int(share) for label, share in shares.items()}
    by_remainder = sorted(shares, key=lambda label: (counts[label] - shares[label], label))
    for label in by_remainder[: test - sum(counts.values())]:
        counts[label] += 1
    chosen = {
        index for label, own in members.items() for index in sorted(own, key=_rank)[: counts[label]]
    }
    train = [index for index in range(len(labels)) if index not in chosen]
    return train, sorted(chosen)


def _rank(index: int) -> bytes:
    return hashlib.sha256(f"perm-merge split {index}".encode()).digest()
