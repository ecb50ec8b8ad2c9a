"""What a solver returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mergekit_perm.permutation import Indices

Saw = Literal["weights", "inputs", "labels"]


@dataclass(slots=True)
class Solution:
    """One member of the symmetry group per network, and how the objective rose.

    Attributes:
        members: by network, the whole permutation of every group in gather form.
        traces: the solver's own objective before the first step and after each, by network where
            each is matched to a reference on its own, under "joint" where all are matched at once.
        saw: what the solver looked at: the weights alone, inputs as well, or labels too.
    """

    members: dict[str, dict[str, Indices]]
    traces: dict[str, list[float]]
    saw: Saw = "weights"
