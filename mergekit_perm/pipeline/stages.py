"""What the stages of a run do: each makes files in the run's folder and returns a plain result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mergekit_perm import align, checkpoints, derive, evaluate, merge, networks, train
from mergekit_perm.alignment import Alignment, applied
from mergekit_perm.cache import cache_folder
from mergekit_perm.errors import CheckpointError, RunError
from mergekit_perm.files import write_text
from mergekit_perm.pipeline import card
from mergekit_perm.pipeline.folder import RunFolder
from mergekit_perm.pipeline.inputs import Inputs
from mergekit_perm.progress import Progress
from mergekit_perm.spec.models import MergeSpec

State = dict[str, torch.Tensor]
Result = dict[str, Any]
Weights = tuple[float, ...]
Engine = evaluate.Engine | evaluate.Team


@dataclass(slots=True)
class Workshop:
    """Where stages work: the folder, the inputs, and networks kept in memory between stages.

    Attributes:
        results: of the stages that are finished, by name.
    """

    inputs: Inputs
    folder: RunFolder
    progress: Progress
    use_cache: bool
    trust_permutations: bool
    results: Mapping[str, Result] = field(default_factory=dict)
    _states: dict[str, State] = field(default_factory=dict)
    _module: nn.Module | None = None
    _engine: tuple[tuple[str, str], Engine] | None = None

    def state(self, file: str) -> State:
        """Return the weights in `file` of the folder, read once."""
        if file not in self._states:
            self._states[file] = checkpoints.load_state(self.folder.path / file)
        return self._states[file]

    def keep(self, file: str, state: State, **metadata: str) -> None:
        """Write `state` to `file` of the folder, and remember it."""
        checkpoints.save(self.folder.path / file, state, metadata=metadata)
        self._states[file] = state

    def module(self) -> nn.Module:
        """Return the one module that every network is evaluated in; its weights are anyone's."""
        if self._module is None:
            self._module = networks.build(self.inputs.architecture, self.inputs.options, seed=0)
        return self._module

    def family(self, alignment: str) -> dict[str, State]:
        """Return every network by name: as it was ("naive") or after alignment ("aligned")."""
        place = {"naive": network_file, "aligned": aligned_file}[alignment]
        return {name: self.state(place(name)) for name in self.inputs.spec.networks}

    def engine(self, alignment: str, calibration: str) -> Engine:
        """Return what measures mixtures of the family; the last one asked for is kept."""
        which = alignment, calibration
        if self._engine is None or self._engine[0] != which:
            self._release()
            family = list(self.family(alignment).values())
            self._engine = which, self._new_engine(family, calibration)
        return self._engine[1]

    def engine_of(self, file: str, calibration: str) -> Engine:
        """Return what measures the one network in `file` of the folder."""
        self._release()
        return self._new_engine([self.state(file)], calibration)

    def _release(self) -> None:
        """Forget what the next engine needs no memory for; networks can be read again."""
        self._engine = None
        self._states.clear()

    def _new_engine(self, states: Sequence[State], calibration: str) -> Engine:
        """Return what measures mixtures of `states` on the splits of the spec."""
        inputs = self.inputs
        if inputs.data is None or inputs.spec.evaluate is None:
            raise RunError("nothing can be evaluated: the spec has no `data` or no `evaluate`")
        batch_size = inputs.spec.evaluate.batch_size
        # The first takes the module itself, the others copies of it, so they come before.
        engines = [
            evaluate.Engine(
                self.module(),
                states,
                {split: inputs.data.splits[split] for split in inputs.splits},
                train_split=inputs.data.splits.get("train"),
                calibration=calibration,
                device=device,
                batch_size=None if batch_size == "auto" else batch_size,
                precision=inputs.spec.evaluate.precision,
                in_place=place == 0,
            )
            for place, device in reversed(list(enumerate(inputs.devices)))
        ]
        return engines[0] if len(engines) == 1 else evaluate.Team(engines[::-1])


def network_file(name: str) -> str:
    """Return where network `name` is kept in the run's folder."""
    return f"networks/{name}.safetensors"


def aligned_file(name: str) -> str:
    """Return where network `name` is kept after alignment."""
    return f"aligned/{name}.safetensors"


def permutation_file(name: str) -> str:
    """Return where the permutations that aligned network `name` are kept."""
    return f"permutations/{name}.safetensors"


def train_network(name: str, key: str, shop: Workshop) -> Result:
    """Train network `name`, or take it from the cache, where any run left the same content."""
    spec, inputs = shop.inputs.spec, shop.inputs
    settings = spec.networks[name].train
    if settings is None or inputs.data is None:
        raise RunError(f"network '{name}' cannot be trained: it has no data")
    cached = cache_folder("networks") / f"{key}.safetensors"
    known = _from_cache(cached) if shop.use_cache else None
    if known is not None:
        shop.keep(network_file(name), known, content=key)
        return {"origin": "trained", "seed": settings.seed, "cached": True}
    module = networks.build(spec.architecture_of(name), spec.options_of(name), seed=settings.seed)
    history = train.fit(
        module,
        inputs.data.splits["train"],
        train.Recipe(**spec.training(name).keywords()),
        seed=settings.seed,
        device=inputs.device,
        progress=shop.progress,
        task=f"training {name}",
    )
    state = {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}
    shop.keep(network_file(name), state, content=key)
    with suppress(OSError):  # a cache that cannot be written costs time, not the run
        checkpoints.save(cached, state, metadata={"content": key})
    losses = list(history.losses)
    return {"origin": "trained", "seed": settings.seed, "cached": False, "losses": losses}


def _from_cache(file: Path) -> State | None:
    """Return the network in `file`; None when there is none, or none that can be read."""
    try:
        return checkpoints.load_state(file) if file.is_file() else None
    except CheckpointError:
        return None


def read_network(name: str, shop: Workshop) -> Result:
    """Read network `name` from its checkpoint, and check that it fits and is finite."""
    spec = shop.inputs.spec
    network = spec.networks[name]
    found = checkpoints.load(network.checkpoint or "", ema=network.ema, folder=spec.folder)
    checkpoints.fit(found.state, shop.inputs.shapes, source=found.source)
    checkpoints.check_finite(found.state, source=found.source)
    shop.keep(network_file(name), found.state, source=network.checkpoint or "")
    return {"origin": "checkpoint", "source": network.checkpoint, "key": found.key}


def prove_permutations(shop: Workshop) -> Result:
    """Write the permutation spec that is used, and prove it unless it is proven or trusted."""
    inputs = shop.inputs
    found = inputs.permutations
    if found is None:
        raise RunError("nothing is aligned, so there is no permutation spec to prove")
    write_text(shop.folder.path / "permspec.yaml", found.text)
    result = {"source": found.source, "sha256": found.spec.sha256}
    if shop.trust_permutations:
        module = shop.module()
        shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
        return {**result, "verified": False, "coverage": found.spec.coverage(shapes)}
    proof = derive.proven(
        found.spec,
        inputs.architecture,
        inputs.options,
        partial(derive.probe, inputs.architecture, inputs.options, found.spec),
        code=inputs.code,
        force=not shop.use_cache,
        progress=shop.progress,
    )
    return {**result, "verified": True, "coverage": proof.coverage, "difference": proof.difference}


def align_networks(shop: Workshop) -> Result:
    """Align all networks to the one reference; write their permutations and permuted weights."""
    settings, found = shop.inputs.spec.align, shop.inputs.permutations
    if settings is None or found is None:
        raise RunError("the spec has no `align` section")
    data = shop.inputs.data if shop.inputs.spec.looks_at != "weights" else None
    family = align.align(
        shop.family("naive"),
        found.spec,
        reference=settings.reference,
        method=settings.method,
        model=None if data is None else shop.module(),
        data=data,
        device=str(shop.inputs.device),
        progress=shop.progress,
        **settings.options,
    )
    spec = replace(found.spec, architecture=shop.inputs.architecture, options=shop.inputs.options)
    for name, permutations in family.permutations.items():
        alignment = Alignment(permutations, spec, name, reference=settings.reference)
        alignment.save(shop.folder.path / permutation_file(name))
        shop.keep(aligned_file(name), family.states[name], **applied(alignment))
    groups = [
        {
            "name": name,
            "size": effect.size,
            "moved": effect.moved,
            "objective": {"before": effect.objective_before, "after": effect.objective},
            "similarity": {"before": effect.similarity_before, "after": effect.similarity},
        }
        for name, effect in family.groups.items()
    ]
    objective = {
        "before": family.objective_before,
        "after": family.objective,
        "traces": family.traces,
    }
    return {
        "objective": objective,
        "groups": groups,
        "saw": family.saw,
        "cut_off": family.cut_off,
    }


def merge_networks(recipe: MergeSpec, alignment: str, shop: Workshop) -> Result:
    """Merge networks by `recipe`; write weights, config, card and spec, and read them back."""
    inputs, folder = shop.inputs, f"merged/{recipe.name}"
    names = inputs.spec.merged_networks(recipe)
    family = shop.family(alignment)
    merged = merge.merge(
        {name: family[name] for name in names},
        method=recipe.method,
        **recipe.parameters.model_dump(),
    )
    file = f"{folder}/model.safetensors"
    shop.keep(file, merged, format="pt", recipe=recipe.name)
    config = networks.model_config(inputs.architecture, inputs.options, shop.module())
    card.write(shop.folder.path / folder, recipe, names, config, inputs.spec)
    back = checkpoints.load_state(shop.folder.path / file)
    if any(not torch.equal(back[tensor], merged[tensor]) for tensor in merged):
        raise RunError(f"{shop.folder.path / file}: what was written does not read back the same")
    return {"file": file}


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
    shop: Workshop,
) -> Result:
    """Measure mixtures of the family at `weights` (one number per network).

    Every point is kept as soon as it is measured, so that a run that is killed goes on from there.
    """
    known = shop.folder.kept_points(name, key)
    networks = shop.results.get(evaluation_name(alignment, calibration, "networks"), {})
    measured = evaluate.measure_points(
        shop.engine(alignment, calibration),
        weights,
        known=_read(known),
        ends=_read(networks.get("points", [])),
        keep=lambda point, found: shop.folder.keep_point(name, key, _plain(point, found)),
        progress=shop.progress,
        task=task,
    )
    return {"points": [_plain(*each) for each in zip(weights, measured, strict=True)]}


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
            measured |= _read(result["points"])
    found = evaluate.search_simplex(
        shop.engine(alignment, calibration),
        measured,
        grid=grid,
        count=count,
        known=_read(shop.folder.kept_points(name, key)),
        keep=lambda point, metrics: shop.folder.keep_point(name, key, _plain(point, metrics)),
        progress=shop.progress,
        task=task,
    )
    return {"points": [_plain(*each) for each in found.items()]}


def measure_merged(recipe: str, calibration: str, shop: Workshop) -> Result:
    """Measure a merged network."""
    engine = shop.engine_of(f"merged/{recipe}/model.safetensors", calibration)
    shop.progress(f"evaluating {recipe}", 0, 1)
    measured = engine.measure((1.0,))
    shop.progress(f"evaluating {recipe}", 1, 1)
    return _plain((1.0,), measured)


def _plain(weights: Weights, measured: Mapping[str, evaluate.Metrics]) -> Result:
    metrics = {split: {"loss": m.loss, "error": m.error, "n": m.n} for split, m in measured.items()}
    return {"weights": list(weights), "metrics": metrics}


def _read(points: Sequence[Result]) -> dict[Weights, dict[str, evaluate.Metrics]]:
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
