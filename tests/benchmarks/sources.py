"""Of which code a figure is: a short hash over the source that decides it."""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def digest(folder: Path, patterns: Iterable[str]) -> str:
    """Return a short hash of the names and the code of the Python files in `folder` that match.

    Comments, docstrings, blank lines and spaces that end lines decide no figure, and do not count.

    Args:
        folder: what names are relative to.
        patterns: in the manner of `Path.glob`; files that match one after an exclamation mark are
            left out.

    Raises:
        ValueError: a pattern matches nothing, as after a file has got another name.
    """
    found: dict[bool, set[Path]] = {True: set(), False: set()}
    for pattern in patterns:
        matching = set(folder.glob(pattern.removeprefix("!")))
        if not matching:
            raise ValueError(f"{folder}: no file matches {pattern}")
        found[not pattern.startswith("!")] |= matching
    content = hashlib.sha256()
    for path in sorted(found[True] - found[False]):
        name = path.relative_to(folder)
        content.update(f"{name}\n{code(path.read_text(encoding='utf-8'))}".encode())
    return content.hexdigest()[:12]


def code(source: str) -> str:
    """Return Python source without comments, docstrings, blank lines and trailing spaces."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            for row in range(first.lineno, (first.end_lineno or first.lineno) + 1):
                lines[row - 1] = ""
    return "".join(f"{line.rstrip()}\n" for line in lines if line.strip())


def _packages(*names: str) -> tuple[str, ...]:
    return tuple(f"mergekit_perm/{name}/*.py" for name in names)


def _modules(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/benchmarks/{name}.py" for name in names)


_ALIGN = ("mergekit_perm/*.py", *_packages("align"))
# What runs networks on data: methods that compare weights do not.
_ON_DATA = (
    "activation_matching", "activations", "balance", "exchanges", "guidance", "incumbent", "mixed",
    "mixtures", "sinkhorn", "sinkhorn_losses", "sites", "straight_through",
)  # fmt: skip
_BY_WEIGHTS = (*_ALIGN, *(f"!mergekit_perm/align/{name}.py" for name in _ON_DATA))
# Training is not among it: the zoo's networks are trained once, and rows of barriers have their
# fingerprint.
_ZOO = ("mergekit_perm/data/digits.py", *_modules("zoo"))
# Ways to measure: on a CPU there is one.
_NAMES = "graphs", "pace", "together", "ways"
_WAYS = tuple(f"mergekit_perm/evaluate/{name}.py" for name in _NAMES)
_ON_CPU = (*_packages("evaluate"), *(f"!{path}" for path in _WAYS))
_BARRIERS = (*_ALIGN, *_ON_CPU, *_ZOO, *_modules("test_solver_barriers"))
_PAIRS = (*_BY_WEIGHTS, *_modules("textbook", "test_pair_speed"))
_EVALUATION = (*_packages("data"), *_modules("test_evaluation_speed"))
_MERGING = _packages("merge", "checkpoints", "pipeline")

SOURCES: Mapping[str, tuple[str, ...]] = {
    "barriers": _BARRIERS,
    "quarter_width": _BARRIERS,
    "pair_speed": _PAIRS,
    "pair_speed_gpu": _PAIRS,
    "joint_objective": (*_BY_WEIGHTS, *_ZOO, *_modules("test_joint_objective")),
    "planted": (*_BY_WEIGHTS, *_modules("test_planted")),
    "scaling": (*_ALIGN, *_ZOO, *_modules("test_scaling")),
    "evaluation": (*_EVALUATION, *_ON_CPU),
    "evaluation_gpu": (*_EVALUATION, *_packages("evaluate")),
    "evaluation_memory": (*_EVALUATION, *_ON_CPU),
    "merge_speed": (
        *_MERGING,
        "!mergekit_perm/pipeline/memory.py",
        *_packages("cli"),
        *_modules("test_merge_speed"),
    ),
    "merged_accuracy": (
        *_ALIGN,
        *_ON_CPU,
        *_packages("data", "merge", "networks", "pipeline", "train"),
        *_modules("closed_form", "test_merged_accuracy"),
    ),
    "run_memory": (*_ALIGN, *_MERGING, *_modules("run_memory", "test_run_memory")),
}
"""The files, in the repository, that decide the figures of every benchmark."""
