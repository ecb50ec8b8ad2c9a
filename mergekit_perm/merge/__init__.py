"""Merge recipes: pure functions from several state dicts to one, under mergekit's names."""

from mergekit_perm.merge.linear import linear
from mergekit_perm.merge.recipes import MERGEKIT_IDS, RECIPES, merge, parameters_of

__all__ = ["MERGEKIT_IDS", "RECIPES", "linear", "merge", "parameters_of"]
