"""Runs: the plan of one, its stages, and the report they end in."""

from mergekit_perm.pipeline.plan import Plan, default_folder, make_plan
from mergekit_perm.pipeline.run import run
from mergekit_perm.pipeline.sweep import Swept, run_sweep

__all__ = ["Plan", "Swept", "default_folder", "make_plan", "run", "run_sweep"]
