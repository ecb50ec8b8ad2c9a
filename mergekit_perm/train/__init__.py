"""Training small networks from a declared recipe, reproducibly."""

from mergekit_perm.train.loop import History, copied, fit
from mergekit_perm.train.recipe import OPTIMIZERS, SCHEDULES, Recipe
from mergekit_perm.train.schedules import learning_rate

__all__ = ["OPTIMIZERS", "SCHEDULES", "History", "Recipe", "copied", "fit", "learning_rate"]
