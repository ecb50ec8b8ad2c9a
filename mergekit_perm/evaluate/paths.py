"""Paths and simplexes as points to measure, shared where they meet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate.barriers import Barrier, Kind, Point, from_points
from mergekit_perm.evaluate.metrics import Metrics
from mergekit_perm.evaluate.pairs import known, select, spoke
from mergekit_perm.evaluate.points import Weights, edge, simplex_grid, simplex_samples

Values = Mapping[Weights, Mapping[str, Metrics]]


@dataclass(frozen=True, slots=True)
class Path:
    """A pair or simplex: its own networks, and its points as weights of those."""

    kind: Kind
    networks: tuple[str, ...]
    spoke: bool | None
    weights: tuple[Weights, ...]

    def points(self, names: Sequence[str]) -> Iterator[Weights]:
        """Yield each point as weights of all networks, so that paths can share it."""
        for weights in self.weights:
            by_name = dict(zip(self.networks, weights, strict=True))
            yield tuple(by_name.get(name, 0.0) for name in names)

    def with_all(self, points: Iterable[Weights]) -> Path:
        """Return the path with `points` too, where it is a simplex: they are weights of all."""
        if self.kind == "pair":
            return self
        return replace(self, weights=tuple(dict.fromkeys([*self.weights, *points])))

    def barrier(
        self,
        names: Sequence[str],
        values: Values,
        calibration: str,
        split: str,
        metric: str,
        alignment: str,
    ) -> Barrier:
        """Return the barrier that `values`, by weights of all networks, show on this path."""
        measured = (values[point][split] for point in self.points(names))
        pairs = zip(self.weights, measured, strict=True)
        return from_points(
            (Point(weights, getattr(metrics, metric)) for weights, metrics in pairs),
            kind=self.kind,
            networks=self.networks,
            alignment=alignment,
            calibration=calibration,
            split=split,
            metric=metric,
            spoke=self.spoke,
        )


def paths_between(
    names: tuple[str, ...],
    pairs: str | Sequence[Sequence[str]],
    *,
    reference: str | None,
    points: int,
    simplex: int | None,
    samples: int = 0,
    seed: int = 0,
) -> list[Path]:
    """Return the paths that `barrier` measures: each pair, then the simplex; see its arguments.

    Raises:
        EvaluationError: fewer than two networks, unknown names, or too few points.
    """
    if len(names) < 2:
        raise EvaluationError(f"a barrier needs at least 2 networks, not {len(names)}")
    centre = None if reference in (None, "joint") else known(reference, names, what="reference")
    chosen = select(pairs, names, reference=centre)
    paths = [Path("pair", pair, spoke(pair, centre), edge(points)) for pair in chosen]
    if simplex is not None:
        inner = [
            *simplex_grid(len(names), simplex),
            *simplex_samples(len(names), samples, seed=seed),
        ]
        edges = (point for path in paths for point in path.points(names))
        paths.append(Path("simplex", names, None, tuple(dict.fromkeys([*inner, *edges]))))
    return paths
