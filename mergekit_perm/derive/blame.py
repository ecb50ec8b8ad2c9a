"""Finding the groups of a spec that change a network's function, and saying so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from mergekit_perm.derive.trial import Trial
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.members import own_moves
from mergekit_perm.permutation import Indices

# How many groups an error names.
_SHOWN = 10


def not_preserved(
    trial: Trial, difference: float, tolerance: float, *, seed: int, training: bool
) -> PermutationSpecError:
    """Return an error that names the groups which alone change the outputs.

    Args:
        trial: the network and the spec that failed.
        difference: by how much it failed.
        tolerance: what would have been rounding.
        seed: of the members that are tried.
        training: whether it failed in training mode.
    """
    spec = trial.spec
    guilty = [
        f"{group} ({change:.1e}; on {', '.join(list(spec.carriers(group))[:4])})"
        for group, change in islice(_guilty(trial, tolerance, seed, training), _SHOWN + 1)
    ]
    guilty[_SHOWN:] = ["(and more)"] * (len(guilty) > _SHOWN)
    return PermutationSpecError(
        f"the permutation spec of {spec.architecture or 'this architecture'} changes the "
        f"function of the network{' in training mode' * training}: outputs differ by "
        f"{difference:.1e} of their size, rounding would give under {tolerance:.0e}. "
        "Groups that do so alone:\n  " + "\n  ".join(guilty or ["(none)"])
    )


def _guilty(
    trial: Trial, tolerance: float, seed: int, training: bool
) -> Iterator[tuple[str, float]]:
    """Yield each group that changes the outputs alone, and how far.

    Groups that preserve the function preserve it together, so they are cleared many at a time.
    """
    random = trial.spec.random(generator=np.random.default_rng(seed))
    member = {name: permutation.indices for name, permutation in random.items()}
    moves = own_moves(trial.spec.groups, member)
    suspects: list[Sequence[str]] = [list(moves)]
    while suspects:
        names = suspects.pop()
        change = _change(trial, {name: moves[name] for name in names}, training=training)
        if change <= tolerance:
            continue
        if len(names) == 1:
            yield names[0], change
        else:
            middle = len(names) // 2
            suspects += [names[middle:], names[:middle]]


def _change(trial: Trial, moves: Mapping[str, Indices], *, training: bool) -> float:
    """Return how far the outputs move under a member, which is undone again."""
    reference = trial.run(training=training)
    permutations = trial.spec.permutations(moves)
    trial.move(permutations)
    trial.act(permutations, reference.buffers)
    change = trial.run(training=training).distance(reference)
    trial.move({name: permutation.inverse() for name, permutation in permutations.items()})
    return change
