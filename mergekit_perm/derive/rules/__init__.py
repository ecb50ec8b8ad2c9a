"""What every operation states about elements: one small function per kind of operation.

A rule is registered for the names of ATen operations it holds for, without the underscore of
in-place forms: `@rule("relu", "gelu")`. It is given a `Call`: the arguments by their names in the
operation's schema, and the shape of the result. An operation without a rule freezes what touches
it, so a missing rule makes the group smaller and never wrong.
"""

from mergekit_perm.derive.rules import (
    attention,
    choosing,
    convolution,
    elementwise,
    joining,
    normalising,
    products,
    recurrent,
    reducing,
    regrouping,
    resampling,
    spectral,
)
from mergekit_perm.derive.rules.table import RULES, Call, NoRule, rule

__all__ = ["RULES", "Call", "NoRule", "rule"]

# Importing the files above registers their rules.
_KINDS = (
    attention,
    choosing,
    convolution,
    elementwise,
    joining,
    normalising,
    products,
    recurrent,
    reducing,
    regrouping,
    resampling,
    spectral,
)
