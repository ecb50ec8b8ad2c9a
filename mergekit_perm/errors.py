"""Every exception perm-merge raises, and the one function that words a suggestion.

    PermMergeError                 the base; str() is a complete message for a person
    ├── SpecError                  a run spec or other YAML file cannot be used (exit 2)
    │   └── PermutationSpecError   a permutation spec does not fit, or changes the function
    │       └── DerivationError    none can be derived from a network
    ├── NetworkError               an architecture cannot be built (exit 2)
    ├── CheckpointError            a file of weights cannot be read or does not fit
    ├── DataError                  a data set cannot be found or used
    ├── AlignmentError             networks that cannot be aligned
    ├── MergeError                 a recipe that cannot be applied
    ├── EvaluationError            a metric, point or barrier that cannot be computed
    └── RunError                   a stage of a run failed, or its folder cannot be used

Inner code raises the cause; outer code adds the context by raising another of these `from` it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PermMergeError(Exception):
    """Base of all errors of this package; `exit_code` is what the command line ends with."""

    exit_code = 3


class SpecError(PermMergeError):
    """A declarative file cannot be used as it stands."""

    exit_code = 2


class PermutationSpecError(SpecError):
    """A permutation spec is malformed, does not fit an architecture, or changes its function."""


class DerivationError(PermutationSpecError):
    """No permutation spec can be derived from a network: it cannot be traced."""


class NetworkError(PermMergeError):
    """An architecture is unknown or cannot be built with the options given."""

    exit_code = 2


class CheckpointError(PermMergeError):
    """A checkpoint is missing, unreadable, unsafe, or does not fit its architecture."""


class DataError(PermMergeError):
    """A data set is unknown, missing, or empty."""


class AlignmentError(PermMergeError):
    """Networks cannot be aligned as asked."""


class MergeError(PermMergeError):
    """Networks cannot be merged as asked."""


class EvaluationError(PermMergeError):
    """A metric, a path or a barrier cannot be computed."""


class RunError(PermMergeError):
    """A run cannot start or a stage of it failed."""


def suggest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known name nearest to `name`, or ``""``.

    Names less alike than `cutoff` (0 to 1, as difflib measures it) are not suggested.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" (did you mean '{near[0]}'?)" if near else ""
