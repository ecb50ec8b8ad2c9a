"""Metrics, calibration, paths, simplexes and barriers of networks on a device."""

from mergekit_perm.devices import device
from mergekit_perm.evaluate.barriers import Barrier, Point, excess, from_points
from mergekit_perm.evaluate.batch_norms import has_batch_norm
from mergekit_perm.evaluate.calibrating import calibrate
from mergekit_perm.evaluate.calibration import (
    CALIBRATIONS,
    effective_calibration,
    other_temperature,
)
from mergekit_perm.evaluate.curves import barrier, evaluate_points, measure_points
from mergekit_perm.evaluate.engine import Engine
from mergekit_perm.evaluate.memory import Room
from mergekit_perm.evaluate.metrics import METRICS, Metrics, measure
from mergekit_perm.evaluate.mixing import Mixer, mix
from mergekit_perm.evaluate.paths import Path, paths_between
from mergekit_perm.evaluate.points import (
    barycentre,
    edge,
    simplex_grid,
    simplex_samples,
    vertex,
)
from mergekit_perm.evaluate.precision import PRECISIONS
from mergekit_perm.evaluate.search import height, search_simplex
from mergekit_perm.evaluate.team import Team

__all__ = [
    "CALIBRATIONS",
    "METRICS",
    "PRECISIONS",
    "Barrier",
    "Engine",
    "Metrics",
    "Mixer",
    "Path",
    "Point",
    "Room",
    "Team",
    "barrier",
    "barycentre",
    "calibrate",
    "device",
    "edge",
    "effective_calibration",
    "evaluate_points",
    "excess",
    "from_points",
    "has_batch_norm",
    "height",
    "measure",
    "measure_points",
    "mix",
    "other_temperature",
    "paths_between",
    "search_simplex",
    "simplex_grid",
    "simplex_samples",
    "vertex",
]
