"""Run specs: what a run does, declared in YAML; reading one loads no torch."""

from mergekit_perm.spec.load import load, loads
from mergekit_perm.spec.resolve import resolved, without_seeds
from mergekit_perm.spec.run_spec import RunSpec
from mergekit_perm.spec.sweeps import Sweep, load_sweep, loads_sweep

__all__ = [
    "RunSpec",
    "Sweep",
    "load",
    "load_sweep",
    "loads",
    "loads_sweep",
    "resolved",
    "without_seeds",
]
