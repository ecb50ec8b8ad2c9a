"""Which pairs of networks a barrier is measured between."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from mergekit_perm.errors import EvaluationError, suggest

Pair = tuple[str, str]
KINDS = ("all", "none", "spokes", "far_edges")


def select(
    pairs: str | Iterable[Sequence[str]], names: Sequence[str], *, reference: str | None
) -> tuple[Pair, ...]:
    """Return the pairs meant by `pairs`, in the order of `names` or as they were listed.

    Args:
        pairs: ``all``, ``none``, ``spokes`` (pairs with the reference), ``far_edges`` (pairs
            without it), or a list of pairs of names.
        names: the networks there are.
        reference: the name of the reference, or None where there is none among the networks.

    Raises:
        EvaluationError: another word, unknown names, a pair that is no pair, or ``spokes`` or
            ``far_edges`` without a reference.
    """
    if not isinstance(pairs, str):
        return tuple(_listed(tuple(pair), names) for pair in pairs)
    if pairs not in KINDS:
        raise EvaluationError(
            f"no pairs '{pairs}'{suggest(pairs, KINDS)}; choose one of {', '.join(KINDS)}, "
            "or list pairs of names"
        )
    if pairs == "none":
        return ()
    every = tuple(combinations(names, 2))
    if pairs == "all":
        return every
    if reference is None:
        raise EvaluationError(
            f"pairs '{pairs}' need a reference among the networks; name one of "
            f"{', '.join(names)}, or choose all"
        )
    wanted = pairs == "spokes"
    return tuple(pair for pair in every if (reference in pair) is wanted)


def spoke(pair: Pair, reference: str | None) -> bool | None:
    """Return whether `pair` contains the reference, or None where there is none."""
    return None if reference is None else reference in pair


def known(name: str, names: Sequence[str], *, what: str) -> str:
    """Return `name` after making sure that it is one of `names`.

    Raises:
        EvaluationError: it is not; `what` says what the name is for.
    """
    if name not in names:
        raise EvaluationError(
            f"no {what} '{name}'{suggest(name, names)}; there is {', '.join(names)}"
        )
    return name


def _listed(pair: tuple[str, ...], names: Sequence[str]) -> Pair:
    if len(pair) != 2 or pair[0] == pair[1]:
        raise EvaluationError(f"a pair is two different networks, not {list(pair)}")
    for name in pair:
        known(name, names, what="network")
    return pair[0], pair[1]
