"""A report with round numbers, built by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mergekit_perm.report.model import (
    Alignment,
    Barrier,
    Change,
    Checkpoint,
    Composition,
    Control,
    Gate,
    Group,
    Matrix,
    Merged,
    Metrics,
    Objective,
    Permutations,
    Point,
    Provenance,
    Report,
    Transported,
)
from mergekit_perm.report.repeats import Repeats

NAMES = ("a", "b", "c")


def bump(
    networks: tuple[str, ...],
    height: float,
    *,
    alignment: str,
    split: str,
    metric: str,
    spoke: bool | None = None,
    calibration: str = "none",
) -> Barrier:
    """A path that rises to `height` in the middle, over ends of 0.25."""
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    points = tuple(Point((1 - t, t), 0.25 + height * (1 - abs(2 * t - 1)) ** 2) for t in shares)
    return Barrier(
        "pair", networks, alignment, calibration, split, metric, height, (0.5, 0.5), spoke, points
    )  # type: ignore[arg-type]


def simplex(height: float, *, alignment: str, split: str, metric: str) -> Barrier:
    """Three corners of 0.25, the middle of an edge, and a barycentre below the corners."""
    points = (
        Point((1.0, 0.0, 0.0), 0.25),
        Point((0.0, 1.0, 0.0), 0.25),
        Point((0.0, 0.0, 1.0), 0.25),
        Point((0.5, 0.5, 0.0), 0.25 + height),
        Point((1 / 3, 1 / 3, 1 / 3), 0.125),
    )
    return Barrier(
        "simplex", NAMES, alignment, "none", split, metric, height, (0.5, 0.5, 0.0), None, points
    )  # type: ignore[arg-type]


def matrices() -> tuple[Matrix, ...]:
    """Barriers of a pair that permutations of late epochs lower."""
    return tuple(
        Matrix(
            ("a", "b"), "none", split, metric, ("0", "5", "20"), ("0", "5", "prune1"),
            (0.0, 0.5, 1.0),
            ((0.0, 0.25, 0.75), (0.0, 0.0625, 0.5), (0.0, 0.0625, 0.03125)),
        )
        for split in ("train", "test")
        for metric in ("loss", "error")
    )  # type: ignore[arg-type]  # fmt: skip


def make(
    *,
    reference: str = "joint",
    moved: int = 6,
    name: str = "example",
    method: str = "weight_matching",
    saw: str = "weights",
) -> Report:
    """A report of three networks."""
    metrics = Metrics(0.25, 0.0625, 450)
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    heights = {"naive": (0.5, 0.75, 1.0), "aligned": (0.0, 0.03125, 0.0625)}
    barriers = []
    for alignment, values in heights.items():
        for split in ("train", "test"):
            for metric in ("loss", "error"):
                where = {"alignment": alignment, "split": split, "metric": metric}
                scale = 1.0 if metric == "loss" else 0.5
                for pair, height in zip(pairs, values, strict=True):
                    spoke = None if reference == "joint" else reference in pair
                    barriers.append(bump(pair, scale * height, spoke=spoke, **where))
                barriers.append(simplex(scale * values[2], **where))
    groups = (
        Group(
            "layers.0", 6, {"a": 0, "b": moved, "c": moved}, Change(1.5, 12.0), Change(0.25, 0.75)
        ),
        Group("layers.1", 2, {"a": 0, "b": 0, "c": 0}, Change(1.0, 8.0), Change(0.0, 0.5)),
    )
    return Report(
        name=name,
        networks={n: {"train": metrics, "test": metrics} for n in NAMES},
        alignment=Alignment(
            reference,
            method,
            Objective(2.0, 16.0, {"joint": (2.0, 12.0, 16.0)}),
            Permutations("mlp's own", True, False, 0.9996),
            groups,
            0.25,
            saw,  # type: ignore[arg-type]
        ),
        barriers=tuple(barriers),
        merged={
            "mean": Merged(
                "merged/mean/model.safetensors",
                "0" * 64,
                {"none": {"train": metrics, "test": metrics}},
            )
        },
        gates=(
            Gate("simplex", "loss", "test", 0.125, "aligned", "none", 0.0625, True),
            Gate("pair", "error", "train", 0.25, "naive", "none", 0.5, False),
        ),
        provenance=Provenance("0" * 64, {"torch": "2.11"}, "cpu (2 threads)", "float32", {}, {}),
        notes=("A plain sentence.",),
    )


@pytest.fixture
def of_sequences() -> Report:
    """A report of two sequences, with a matrix for every split and metric."""
    report = make(name="sequences")
    assert report.alignment is not None
    alignment = replace(report.alignment, at=("5", "prune1"))
    metrics = report.networks["a"]
    checkpoints = {
        name: {"0": Checkpoint(1.0, metrics), "prune1": Checkpoint(0.8, metrics)} for name in "ab"
    }
    return replace(
        report, alignment=alignment, matrices=matrices(), checkpoints=checkpoints, gates=(),
        notes=(),
    )  # fmt: skip


def compositions() -> tuple[Composition, ...]:
    """Two paths of two matchings, and a cycle of three networks, in every case."""
    return tuple(
        Composition(networks, "none", split, metric, barrier, aligned, fixed)
        for split in ("train", "test")
        for metric in ("loss", "error")
        for networks, barrier, aligned, fixed in (
            (("a", "b", "c"), 0.5, 0.0625, None),
            (("b", "c", "a"), 0.75, 0.03125, None),
            (("a", "b", "c", "a"), 0.375, None, 0.125),
        )
    )  # type: ignore[arg-type]


def controls() -> tuple[Control, ...]:
    """Random permutations of two pairs, and a copy that was found again but for a part."""
    return tuple(
        Control(kind, networks, "none", split, metric, barrier, found)
        for split in ("train", "test")
        for metric in ("loss", "error")
        for kind, networks, barrier, found in (
            ("random permutation", ("a", "b"), 0.4375, None),
            ("random permutation", ("a", "c"), 0.8125, None),
            ("planted copy", ("a",), 0.0, 0.96875),
        )
    )  # type: ignore[arg-type]


def transported() -> tuple[Transported, ...]:
    """Networks trained under two kinds of mask, each of two levels, twice."""
    return tuple(
        Transported(mask, level, "a", "b", kept, tuple(
            {split: Metrics(loss, loss / 2, 450) for split in ("train", "test")}
            for loss in (low, low + 0.125)
        ))
        for mask, low in (("permuted", 0.1875), ("raw", 0.6875))
        for level, kept in (("prune1", 0.8), ("prune2", 0.64))
    )  # fmt: skip


@pytest.fixture
def pruned(of_sequences: Report) -> Report:
    """A report of two sequences that were pruned."""
    report = of_sequences
    matrices = tuple(
        replace(
            matrix,
            found_at=("5", "20", "prune1"),
            applied_at=("5", "20", "prune1"),
            naive=(0.25, 0.5, 1.0),
            barriers=((0.0, 0.25, 0.75), (0.0, 0.0625, 0.5), (0.0, 0.125, 0.03125)),
            end="20",
        )
        for matrix in report.matrices
    )
    metrics = report.networks["a"]
    shares = {"5": 1.0, "20": 1.0, "prune1": 0.8}
    steps = {step: Checkpoint(kept, metrics) for step, kept in shares.items()}
    return replace(report, matrices=matrices, checkpoints={"a": steps, "b": steps})


@pytest.fixture
def of_everything(pruned: Report) -> Report:
    """A report that has every kind of result."""
    return replace(
        pruned, gates=make().gates, notes=make().notes, compositions=compositions(),
        controls=controls(), transported=transported(),
    )  # fmt: skip


def sweep(*values: dict[str, Any]) -> list[Repeats]:
    """Two runs for each of `values`, the second with higher barriers."""
    groups = []
    for place, value in enumerate(values):
        report = make(name=f"run-{place}")
        higher = tuple(replace(b, barrier=b.barrier + place + 1) for b in report.barriers)
        both = (report, replace(report, barriers=higher))
        groups.append(Repeats(f"run-{place}", both, value))
    return groups


@pytest.fixture
def make_report() -> Callable[..., Report]:
    return make
