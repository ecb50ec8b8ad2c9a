"""Of which code a figure is: a short hash over the source that decides it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def digest(folder: Path, patterns: Iterable[str]) -> str:
    """Return a short hash of the names and contents of the files in `folder` that match.

    Args:
        folder: what names are relative to.
        patterns: in the manner of `Path.glob`.

    Raises:
        ValueError: a pattern matches nothing, as after a file has got another name.
    """
    found: set[Path] = set()
    for pattern in patterns:
        matching = set(folder.glob(pattern))
        if not matching:
            raise ValueError(f"{folder}: no file matches {pattern}")
        found |= matching
    content = hashlib.sha256()
    for path in sorted(found):
        content.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return content.hexdigest()[:12]


def _packages(*names: str) -> tuple[str, ...]:
    return tuple(f"mergekit_perm/{name}/*.py" for name in names)


def _modules(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/benchmarks/{name}.py" for name in names)


_ALIGN = ("mergekit_perm/*.py", *_packages("align"))
# Training is not among it: the zoo's networks are trained once, and rows of barriers have their
# fingerprint.
_ZOO = ("mergekit_perm/data/digits.py", *_modules("zoo"))
_BARRIERS = (*_ALIGN, *_packages("evaluate"), *_ZOO, *_modules("test_solver_barriers"))
_PAIRS = (*_ALIGN, *_modules("textbook", "test_pair_speed"))
_EVALUATION = (*_packages("evaluate", "data"), *_modules("test_evaluation_speed"))
_MERGING = _packages("merge", "checkpoints", "pipeline")

SOURCES: Mapping[str, tuple[str, ...]] = {
    "barriers": _BARRIERS,
    "quarter_width": _BARRIERS,
    "pair_speed": _PAIRS,
    "pair_speed_gpu": _PAIRS,
    "joint_objective": (*_ALIGN, *_ZOO, *_modules("test_joint_objective")),
    "planted": (*_ALIGN, *_modules("test_planted")),
    "scaling": (*_ALIGN, *_ZOO, *_modules("test_scaling")),
    "evaluation": _EVALUATION,
    "evaluation_gpu": _EVALUATION,
    "evaluation_memory": _EVALUATION,
    "merge_speed": (*_MERGING, *_packages("cli"), *_modules("test_merge_speed")),
    "merged_accuracy": (
        *_ALIGN,
        *_packages("data", "evaluate", "merge", "networks", "pipeline", "train"),
        *_modules("closed_form", "test_merged_accuracy"),
    ),
    "run_memory": (*_ALIGN, *_MERGING, *_modules("run_memory", "test_run_memory")),
}
"""The files, in the repository, that decide the figures of every benchmark."""
