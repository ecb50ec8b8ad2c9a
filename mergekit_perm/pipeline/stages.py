"""What the stages of a run do: each makes files in the run's folder and returns a plain result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

from mergekit_perm import checkpoints, evaluate, networks, train
from mergekit_perm.errors import RunError
from mergekit_perm.pipeline.calibrated import engine_of_merged
from mergekit_perm.pipeline.fitting import fitted
from mergekit_perm.pipeline.forming import FormingCurve
from mergekit_perm.pipeline.networks_cache import keep_cached, keep_network
from mergekit_perm.pipeline.workshop import (
    Engine,
    Result,
    State,
    Workshop,
    checkpoint_file,
    network_file,
)
from mergekit_perm.progress import Progress
from mergekit_perm.spec.merge_models import MergeSpec

Weights = tuple[float, ...]

# Name and content key of another stage, if there is one.
Beside = tuple[str, str] | None


def train_network(name: str, keys: Mapping[int, str], shop: Workshop) -> Result:
    """Train network `name`, or take it from the cache, where any run left the same content.

    Args:
        name: of the network.
        keys: by epoch the content keys of its checkpoints, the last one that of its end.
        shop: where to work.
    """
    spec, inputs = shop.inputs.spec, shop.inputs
    settings = spec.networks[name].train
    if settings is None or inputs.data is None:
        raise RunError(f"network '{name}' cannot be trained: it has no data")
    end = max(keys)
    files = {epoch: network_file(name if epoch == end else f"{name}@{epoch}") for epoch in keys}
    if all(keep_cached(files[epoch], key, shop) for epoch, key in keys.items()):
        return {"origin": "trained", "seed": settings.seed, "cached": True}

    def keep(epoch: int, state: State) -> None:
        # What there is stays: elsewhere than on a CPU the same training need not repeat to the bit.
        if not keep_cached(files[epoch], keys[epoch], shop):
            keep_network(files[epoch], state, keys[epoch], shop)

    module = networks.build(spec.architecture_of(name), spec.options_of(name), seed=settings.seed)
    history = train.fit(
        module,
        inputs.data.splits["train"],
        train.Recipe(**spec.training(name).keywords()),
        seed=settings.seed,
        device=inputs.device,
        checkpoints=keys,
        keep=keep,
        progress=shop.progress,
        task=f"training {name}",
    )
    losses = list(history.losses)
    return {"origin": "trained", "seed": settings.seed, "cached": False, "losses": losses}


def read_network(name: str, shop: Workshop) -> Result:
    """Read network `name` from its checkpoint, or all of a sequence, and check each."""
    spec = shop.inputs.spec
    network = spec.networks[name]
    if network.checkpoints is None:
        source = network.checkpoint or ""
        return _read_checkpoint(source, network_file(name), network.ema, shop)
    for step in spec.steps_of(name):
        source = str(spec.checkpoint_file(name, step).absolute())
        result = _read_checkpoint(source, checkpoint_file(spec, name, step), network.ema, shop)
    return {**result, "source": network.checkpoints}


def _read_checkpoint(source: str, file: str, ema: bool | Literal["auto"], shop: Workshop) -> Result:
    """Read one checkpoint into `file` of the folder, if it fits and is finite."""
    spec, inputs, known = shop.inputs.spec, shop.inputs, shop.inputs.outline
    plain = checkpoints.plain_file(source, known.shapes, folder=spec.folder, ties=shop.left_out)
    if plain is not None and ema is not True:
        state = checkpoints.map_state(plain)
        checkpoints.check_finite(state, source=str(plain))
        checkpoints.check_tied(state, known.ties, source=str(plain))
        # A run may write what it has read, if that lies in its own folder.
        within = plain.resolve().is_relative_to(shop.folder.path.resolve())
        (checkpoints.copy if within else checkpoints.link)(plain, shop.folder.path / file)
        return {"origin": "checkpoint", "source": source, "key": None, "absent": []}
    found = checkpoints.load(source, ema=ema, folder=spec.folder)
    state, absent = fitted(found.state, inputs, source=found.source)
    checkpoints.check_finite(state, source=found.source)
    checkpoints.check_tied(state, known.ties, source=found.source)
    shop.write(file, state, source=source)
    return {"origin": "checkpoint", "source": source, "key": found.key, "absent": absent}


def evaluation_name(alignment: str, calibration: str, label: str) -> str:
    """Return the name of the stage that measures one set of points."""
    return f"evaluate/{alignment}/{calibration}/{label}"


def measure_points(
    name: str,
    key: str,
    alignment: str,
    calibration: str,
    weights: Sequence[Weights],
    task: str,
    beside: Beside,
    shop: Workshop,
) -> Result:
    """Measure mixtures of the family at `weights` (one number per network).

    Args:
        name: of the stage.
        key: its content key.
        alignment: of the family.
        calibration: of mixtures.
        weights: one tuple per mixture.
        task: what to call this in progress.
        beside: name and key of the stage that measures the same mixtures with the temperature, or
            without it, if there is one: what it needs is measured in the same passes.
        shop: where to work.
    """
    networks = shop.results.get(evaluation_name(alignment, calibration, "networks"), {})
    ends = read_points(networks.get("points", []))
    beside = unfinished(beside, shop)
    engine = partial(shop.engine, alignment, calibration, both=beside is not None)
    return measure_kept(name, key, engine, weights, task, shop, ends, beside=beside)


def measure_kept(
    name: str,
    key: str,
    make: Callable[[], Engine],
    weights: Sequence[Weights],
    task: str,
    shop: Workshop,
    ends: Mapping[Weights, dict[str, evaluate.Metrics]] | None = None,
    *,
    beside: Beside = None,
    progress: Progress | None = None,
) -> Result:
    """Measure mixtures of the networks of an engine at `weights`; `ends` are known already.

    Every point is kept as soon as it is measured, so that a run that is killed goes on from there;
    what was measured beside it is kept for the stage that it belongs to. The engine is made where
    there is anything left to measure.
    """
    progress = progress or shop.progress
    known = read_points(shop.folder.kept_points(name, key))
    if known.keys() >= set(weights):
        progress(task, len(weights), len(weights))
        return {"points": [plain_point(point, known[point]) for point in weights]}
    engine, curve = make(), FormingCurve(weights, ends or {}, known)

    def keep(point: Weights, found: Mapping[str, evaluate.Metrics]) -> None:
        shop.folder.keep_point(name, key, plain_point(point, found))
        curve.add(point, found)
        _keep_beside(beside, point, engine, shop)

    measured = evaluate.measure_points(
        engine,
        weights,
        known=known,
        ends=ends,
        keep=keep,
        progress=curve.shown(progress),
        task=task,
    )
    return {"points": [plain_point(*each) for each in zip(weights, measured, strict=True)]}


def search_simplex(
    name: str,
    key: str,
    alignment: str,
    calibration: str,
    grid: int,
    count: int,
    task: str,
    shop: Workshop,
) -> Result:
    """Measure up to `count` more points where the simplex may be highest, and keep each."""
    others = evaluation_name(alignment, calibration, "")
    measured: dict[Weights, dict[str, evaluate.Metrics]] = {}
    for stage, result in shop.results.items():
        if stage.startswith(others):
            measured |= read_points(result["points"])
    found = evaluate.search_simplex(
        shop.engine(alignment, calibration),
        measured,
        grid=grid,
        count=count,
        known=read_points(shop.folder.kept_points(name, key)),
        keep=lambda point, metrics: shop.folder.keep_point(name, key, plain_point(point, metrics)),
        progress=shop.progress,
        task=task,
    )
    return {"points": [plain_point(*each) for each in found.items()]}


def measure_merged(
    name: str,
    key: str,
    recipe: MergeSpec,
    alignment: str,
    calibration: str,
    beside: Beside,
    shop: Workshop,
) -> Result:
    """Measure a merged network; see `measure_points`."""
    alone = (1.0,)
    known = read_points(shop.folder.kept_points(name, key))
    shop.progress(f"evaluating {recipe.name}", 0, 1)
    if alone not in known:
        beside = unfinished(beside, shop)
        engine = engine_of_merged(recipe, alignment, calibration, shop, both=beside is not None)
        known[alone] = engine.measure(alone)
        _keep_beside(beside, alone, engine, shop)
    shop.progress(f"evaluating {recipe.name}", 1, 1)
    return plain_point(alone, known[alone])


def unfinished(beside: Beside, shop: Workshop) -> Beside:
    """Return which stage `beside` is if it has still to be done."""
    return None if beside is None or shop.done(*beside) is not None else beside


def _keep_beside(beside: Beside, point: Weights, engine: Engine, shop: Workshop) -> None:
    """Keep what was measured beside `point` for the stage that it belongs to."""
    if beside is not None and (found := engine.beside(point)):
        shop.folder.keep_point(*beside, plain_point(point, found))


def plain_point(weights: Weights, measured: Mapping[str, evaluate.Metrics]) -> Result:
    """Return a measured mixture as plain data."""
    metrics = {split: {"loss": m.loss, "error": m.error, "n": m.n} for split, m in measured.items()}
    return {"weights": list(weights), "metrics": metrics}


def read_points(points: Sequence[Result]) -> dict[Weights, dict[str, evaluate.Metrics]]:
    """Return the mixtures that `plain_point` has made plain."""
    return {
        tuple(point["weights"]): {
            split: evaluate.Metrics(**values) for split, values in point["metrics"].items()
        }
        for point in points
    }


def timed(work: Callable[[Workshop], Result], shop: Workshop) -> tuple[Result, float]:
    """Return the result of `work` and how many seconds it took."""
    began = time.perf_counter()
    result = work(shop)
    return result, time.perf_counter() - began
