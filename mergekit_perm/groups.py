"""The groups of a permutation spec: their sizes, and which lies within which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mergekit_perm.errors import PermutationSpecError, suggest


@dataclass(frozen=True, slots=True)
class Group:
    """A named permutation of `size` elements; `within` names the outer group of a nested one."""

    name: str
    size: int
    within: str | None = None


class Groups(Mapping[str, Group]):
    """The groups of one spec: lengths, nesting, and where each one's labels begin."""

    def __init__(self, groups: Mapping[str, Group]) -> None:
        self._groups = dict(groups)
        self._lengths: dict[str, int] = {}
        self.offsets: dict[str, int] = {}
        total = 0
        for name in self._groups:
            self.offsets[name] = total
            total += self.length(name)
        self.total = total

    def __getitem__(self, name: str) -> Group:
        if name not in self._groups:
            raise PermutationSpecError(f"no group '{name}'{suggest(name, self._groups)}")
        return self._groups[name]

    def __contains__(self, name: object) -> bool:
        # Mapping's own asks __getitem__ and expects a KeyError, which is none of our exceptions.
        return name in self._groups

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def length(self, name: str) -> int:
        """Return how many coordinates `name` permutes; for a nested group, outer times inner."""
        if name not in self._lengths:
            size = 1
            for group in self.chain(name):
                size *= group.size
            self._lengths[name] = size
        return self._lengths[name]

    def chain(self, name: str) -> list[Group]:
        """Return the group, the group it lies within, and so on to the outermost.

        Raises:
            PermutationSpecError: when a group is unknown or lies within itself.
        """
        chain = [self[name]]
        while (outer := chain[-1].within) is not None:
            if any(group.name == outer for group in chain):
                raise PermutationSpecError(f"group '{outer}' lies within itself")
            chain.append(self[outer])
        return chain

    def children(self, name: str) -> list[str]:
        """Return the groups nested directly within `name`."""
        return [group.name for group in self._groups.values() if group.within == name]

    def counted(self) -> str:
        """Return how many groups there are, for people: "25 groups and 24 nested in them"."""
        top, every = len(self.top()), len(self)
        nested = f" and {every - top} nested in {'it' if top == 1 else 'them'}" * (every > top)
        return f"{top} group{'' if top == 1 else 's'}{nested}"

    def top(self) -> list[str]:
        """Return the groups that lie within no other, in order."""
        return [group.name for group in self._groups.values() if group.within is None]
