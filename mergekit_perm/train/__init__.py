"""Training small networks from a declared recipe, reproducibly."""

from mergekit_perm.train.loop import History, copied, fit
from mergekit_perm.train.pruning import (
    Mask,
    kept_count,
    kept_share,
    next_mask,
    prunable,
    whole_mask,
    without_lowest,
)
from mergekit_perm.train.recipe import OPTIMIZERS, SCHEDULES, Recipe
from mergekit_perm.train.schedules import learning_rate

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "History",
    "Mask",
    "Recipe",
    "copied",
    "fit",
    "kept_count",
    "kept_share",
    "learning_rate",
    "next_mask",
    "prunable",
    "whole_mask",
    "without_lowest",
]
