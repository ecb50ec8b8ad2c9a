"""What a run spec may name: methods of alignment, keys of mergekit, keys refused with a reason.

The tables repeat what `align` and `evaluate` provide, because checking a spec must not
load torch; a test holds them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

ALIGNMENT_METHODS = (
    "weight_matching",
    "merge_many",
    "activation_matching",
    "mixed",
    "frank_wolfe",
    "sinkhorn",
    "straight_through",
)
"""Methods that `align.method` may name; their options are in `alignment`."""

MERGEKIT_KEYS = (
    "merge_method",
    "models",
    "slices",
    "modules",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer",
    "tokenizer_source",
    "chat_template",
)
"""Top-level keys of a mergekit file."""

_STACKING = "networks are merged whole; stacking layers of several is not provided"
_TEXT = "networks here have no tokenizer"

REFUSED_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "slices": _STACKING,
        "layer_range": _STACKING,
        "modules": _STACKING,
        "residual_weight": _STACKING,
        "tokenizer": _TEXT,
        "tokenizer_source": _TEXT,
        "chat_template": _TEXT,
        "dtype": "sums are taken in float64; the dtype that is written is out_dtype",
    }
)
"""Keys of mergekit that mean something a user may expect, and why they are no keys here."""
