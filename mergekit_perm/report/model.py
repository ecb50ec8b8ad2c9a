"""The report of a run as frozen data, and its JSON form.

Numbers keep full precision; rounding happens where they are shown.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mergekit_perm.errors import RunError
from mergekit_perm.files import write_text
from mergekit_perm.report.plain_data import plain, read

FORMAT = "perm-merge/report@1"
FILE = "report.json"

LOOKED_AT: Mapping[str, str] = types.MappingProxyType(
    {
        "weights": "weights alone",
        "inputs": "training inputs",
        "labels": "training inputs and labels",
    }
)
"""What a method of alignment looked at, in words, by what `Alignment.saw` says."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Mean cross-entropy in nats, error rate, and the number of examples."""

    loss: float
    error: float
    n: int


@dataclass(frozen=True, slots=True)
class Point:
    """The value of one mixture; one weight per network of the barrier."""

    weights: tuple[float, ...]
    value: float


@dataclass(frozen=True, slots=True)
class Barrier:
    """The barrier of a pair or of the simplex; the fields mean what `evaluate.Barrier` says."""

    kind: Literal["pair", "simplex"]
    networks: tuple[str, ...]
    alignment: Literal["naive", "aligned"]
    calibration: str
    split: str
    metric: Literal["loss", "error"]
    barrier: float
    argmax: tuple[float, ...]
    spoke: bool | None
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Objective:
    """The sum of pairwise inner products before and after alignment.

    The traces are of what the method itself raises or lowers, step by step: that sum, that of
    activations, a loss.
    """

    before: float
    after: float
    traces: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Permutations:
    """Where the permutation spec came from, whether it was proven, and what it covers."""

    source: str
    verified: bool
    trusted: bool
    coverage: float


@dataclass(frozen=True, slots=True)
class Change:
    """A figure before and after alignment."""

    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Group:
    """What alignment did to one group; reports of earlier versions only say what moved.

    Attributes:
        moved: how many of its units, by network.
        objective: the sum over pairs of networks of inner products of the tensors that carry it.
        similarity: the mean over pairs and units of the cosine of all that a unit carries.
    """

    name: str
    size: int
    moved: Mapping[str, int]
    objective: Change | None = None
    similarity: Change | None = None


@dataclass(frozen=True, slots=True)
class Alignment:
    """What alignment did.

    Attributes:
        seconds: its wall time.
        saw: what the method looked at: the weights alone, training inputs, or labels too.
        cut_off: whether `max_seconds` ended it, with the best found by then.
        at: the checkpoints of sequences at which permutations were found; none is the end.
    """

    reference: str
    method: str
    objective: Objective
    permutations: Permutations
    groups: tuple[Group, ...]
    seconds: float
    saw: Literal["weights", "inputs", "labels"] = "weights"
    cut_off: bool = False
    at: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint of a sequence, as it is.

    Attributes:
        kept: the share of the weights that can be pruned that pruning has left; 1 without it.
        metrics: by split.
    """

    kept: float
    metrics: Mapping[str, Metrics]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Barriers of a pair of sequences: permutations found at one checkpoint, applied at another.

    Attributes:
        found_at: where permutations were found, one for each row: an epoch, or a level of
            pruning as in ``prune3``.
        applied_at: where barriers were measured, one for each column.
        end: which checkpoint is the network itself.
        naive: the barriers without permutations, one for each column.
        barriers: row by row.
    """

    networks: tuple[str, ...]
    calibration: str
    split: str
    metric: Literal["loss", "error"]
    found_at: tuple[str, ...]
    applied_at: tuple[str, ...]
    naive: tuple[float, ...]
    barriers: tuple[tuple[float, ...], ...]
    end: str = ""


@dataclass(frozen=True, slots=True)
class Composition:
    """The barrier between the ends of a path of networks, each matched to the next.

    Attributes:
        networks: along the path; of a cycle the last is the first.
        barrier: between the first, permuted by the composed permutation, and the last.
        aligned: between the ends as the run itself aligned them; None for a cycle.
        fixed: of a cycle the share of units that come back to their place; None for a path.
    """

    networks: tuple[str, ...]
    calibration: str
    split: str
    metric: Literal["loss", "error"]
    barrier: float
    aligned: float | None
    fixed: float | None

    @property
    def label(self) -> str:
        """What it is one of: ``path of 2`` matchings, or ``cycle of 3`` networks."""
        kind = "cycle" if self.networks[0] == self.networks[-1] else "path"
        return f"{kind} of {len(self.networks) - 1}"


@dataclass(frozen=True, slots=True)
class Control:
    """A barrier where the answer is known.

    Attributes:
        kind: ``random permutation``, about as high as without permutation, or ``planted copy``, 0.
        networks: the pair, the second permuted at random; or the network that was copied.
        found: of a planted copy the share of units that alignment found again; None otherwise.
    """

    kind: str
    networks: tuple[str, ...]
    calibration: str
    split: str
    metric: Literal["loss", "error"]
    barrier: float
    found: float | None


@dataclass(frozen=True, slots=True)
class Transported:
    """A network trained under a mask, from where its own pruning rewinds it.

    Attributes:
        mask: whose and how: its ``own``, of ``source`` ``permuted`` as the run aligns networks or
            ``permuted at its level``, ``raw`` as it is, permuted at ``random``; or ``one-shot``,
            the largest of its own weights at the start.
        level: of pruning.
        source: the network whose mask it is.
        target: the network that was trained.
        kept: the share of the weights that can be pruned that the mask keeps.
        trainings: metrics by split, one for each training.
    """

    mask: str
    level: str
    source: str
    target: str
    kept: float
    trainings: tuple[Mapping[str, Metrics], ...]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What has been re-estimated in a merged network, for good.

    Attributes:
        name: of the calibration.
        split: where its temperature was found; None without one.
        scale: what logits are multiplied by, the inverse temperature; 1 without one, and where none
            was best.
    """

    name: str
    split: str | None = None
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged network: its file in the run's folder, and its metrics by calibration and split.

    Attributes:
        calibration: what was re-estimated while measuring, on top of what is in the file.
        calibrated: what is in the file; None for weights as they were merged.
    """

    file: str
    sha256: str
    calibration: Mapping[str, Mapping[str, Metrics]]
    calibrated: Calibrated | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """A barrier that must not be higher than `at_most`, the value it had, and the verdict."""

    barrier: Literal["pair", "simplex"]
    metric: Literal["loss", "error"]
    split: str
    at_most: float
    alignment: Literal["naive", "aligned"]
    calibration: str
    value: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the figures were made with.

    Attributes:
        spec_sha256: of the run's `spec.yaml`.
        seconds: by stage.
        repeats: a hash of the spec without its name and the seeds that networks are trained with,
            the same for runs that repeat one another; "" in reports of earlier versions.
    """

    spec_sha256: str
    versions: Mapping[str, str]
    device: str
    dtype: str
    seeds: Mapping[str, int]
    seconds: Mapping[str, float]
    repeats: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a run found out."""

    name: str
    networks: Mapping[str, Mapping[str, Metrics]]
    alignment: Alignment | None
    barriers: tuple[Barrier, ...]
    merged: Mapping[str, Merged]
    gates: tuple[Gate, ...]
    provenance: Provenance
    notes: tuple[str, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    checkpoints: Mapping[str, Mapping[str, Checkpoint]] = field(default_factory=dict)
    compositions: tuple[Composition, ...] = ()
    controls: tuple[Control, ...] = ()
    transported: tuple[Transported, ...] = ()
    format: str = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data that JSON can hold."""
        data: dict[str, Any] = plain(dataclasses.asdict(self))
        return {"format": data.pop("format"), **data}

    def to_text(self) -> str:
        """Return the report as the text of report.json."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"

    def save(self, path: Path) -> None:
        """Write the report to `path` in one step."""
        write_text(path, self.to_text())

    @classmethod
    def from_json(cls, data: Any) -> Report:
        """Return the report that plain `data` holds.

        Raises:
            RunError: naming the place where `data` is not a report of this format.
        """
        if not isinstance(data, dict) or not str(data.get("format", "")).startswith("perm-merge/"):
            raise RunError("this is no report of perm-merge")
        if data["format"] != FORMAT:
            raise RunError(
                f"this report has the format {data['format']!r}, and this version of perm-merge "
                f"reads {FORMAT!r}: run the spec again to make a new one"
            )
        report: Report = read(cls, data, "report")
        for place, barrier in enumerate(report.barriers):
            _check_points(barrier, f"report.barriers[{place}]")
        for place, matrix in enumerate(report.matrices):
            _check_shape(matrix, f"report.matrices[{place}]")
        return report

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a report from a run's folder, or from the file itself.

        Raises:
            RunError: there is none, or the file is not a report of this format.
        """
        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(
                f"{file}: no report there; a finished run has one, so run its spec first"
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{file}: cannot be read as JSON: {error}") from error
        try:
            return cls.from_json(data)
        except RunError as error:
            raise RunError(f"{file}: {error}") from error


def _check_points(barrier: Barrier, place: str) -> None:
    """Refuse points whose excess cannot be computed, which would fail where it is shown."""
    n = len(barrier.networks)
    points = [point.weights for point in barrier.points]
    for weights in (barrier.argmax, *points):
        if len(weights) != n:
            raise RunError(f"{place}: expected {n} weights, one per network, found {list(weights)}")
    for i, name in enumerate(barrier.networks):
        if not any(weights[i] == 1.0 for weights in points):
            raise RunError(f"{place}: no point is the network '{name}' alone")


def _check_shape(matrix: Matrix, place: str) -> None:
    """Refuse a matrix that is not one row per `found_at` of one column per `applied_at`."""
    wanted = [len(matrix.applied_at)] * (len(matrix.found_at) + 1)
    if [len(row) for row in (matrix.naive, *matrix.barriers)] != wanted:
        raise RunError(
            f"{place}: expected {len(matrix.found_at)} rows and `naive`, each of "
            f"{len(matrix.applied_at)} barriers"
        )
