"""What the stages of a run do: each makes files in the run's folder and returns a plain result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from mergekit_perm import align, checkpoints, derive, evaluate, merge, networks, train
from mergekit_perm.alignment import Alignment, applied
from mergekit_perm.cache import cache_folder
from mergekit_perm.errors import CheckpointError, RunError
from mergekit_perm.files import write_text
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.pipeline import card
from mergekit_perm.pipeline.workshop import (
    Result,
    State,
    Workshop,
    aligned_file,
    checkpoint_file,
    mask_file,
    network_file,
    permutation_file,
)
from mergekit_perm.spec.models import MergeSpec
from mergekit_perm.spec.sequences import end_of

Weights = tuple[float, ...]


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
    if all(_keep_cached(files[epoch], key, shop) for epoch, key in keys.items()):
        return {"origin": "trained", "seed": settings.seed, "cached": True}

    def keep(epoch: int, state: State) -> None:
        # What there is stays: elsewhere than on a CPU the same training need not repeat to the bit.
        if not _keep_cached(files[epoch], keys[epoch], shop):
            _keep(files[epoch], state, keys[epoch], shop)

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


def prune_network(name: str, keys: Mapping[str, str], shop: Workshop) -> Result:
    """Prune network `name` level by level, each time trained again from where it is rewound to.

    Args:
        name: of the network.
        keys: the content keys of the levels, in order.
        shop: where to work.
    """
    spec, inputs = shop.inputs.spec, shop.inputs
    settings, pruning = spec.networks[name].train, spec.pruning(name)
    if settings is None or pruning is None or inputs.data is None:
        raise RunError(f"network '{name}' cannot be pruned: it is not trained here")
    module = networks.build(spec.architecture_of(name), spec.options_of(name), seed=settings.seed)
    rewound = shop.read(network_file(f"{name}@{pruning.rewind}"))
    state = shop.read(network_file(name))
    mask = train.whole_mask(state, train.prunable(module, pruning.exclude))
    shares = []
    for step, key in keys.items():
        mask = train.next_mask(state, mask, pruning.fraction)
        shares.append(train.kept_share(mask))
        shop.write(mask_file(name, step), mask, content=key)
        known = _from_cache(key, shop)
        if known is None:
            module.load_state_dict(rewound)
            train.fit(
                module,
                inputs.data.splits["train"],
                train.Recipe(**spec.training(name).keywords()),
                seed=settings.seed,
                device=inputs.device,
                start=pruning.rewind,
                mask=mask,
                progress=shop.progress,
                task=f"training {name}, {100 * shares[-1]:.3g} % of its weights",
            )
            known = train.copied(module)
        state = known
        _keep(network_file(f"{name}@{step}"), state, key, shop)
    return {"kept": shares}


def _keep(file: str, state: State, key: str, shop: Workshop) -> None:
    """Write a network that was trained to the folder, and to the cache."""
    shop.write(file, state, content=key)
    with suppress(OSError):  # a cache that cannot be written costs time, not the run
        checkpoints.save(_cached(key), state, metadata={"content": key})


def _cached(key: str) -> Path:
    return cache_folder("networks") / f"{key}.safetensors"


def _keep_cached(file: str, key: str, shop: Workshop) -> bool:
    """Write the network with this key to `file` of the folder, if the cache has it; tell if so."""
    known = _from_cache(key, shop)
    if known is not None:
        shop.write(file, known, content=key)
    return known is not None


def _from_cache(key: str, shop: Workshop) -> State | None:
    """Return the network with this key; None when there is none, or none that can be read."""
    file = _cached(key)
    try:
        return checkpoints.load_state(file) if shop.use_cache and file.is_file() else None
    except CheckpointError:
        return None


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
    found = checkpoints.load(source, ema=ema, folder=shop.inputs.spec.folder)
    checkpoints.fit(found.state, shop.inputs.shapes, source=found.source)
    checkpoints.check_finite(found.state, source=found.source)
    shop.write(file, found.state, source=source)
    return {"origin": "checkpoint", "source": source, "key": found.key}


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


def align_networks(steps: Sequence[str], shop: Workshop) -> Result:
    """Align all networks to the one reference; write their permutations and permuted weights.

    Args:
        steps: at which checkpoints of sequences permutations are found; none is the end.
        shop: where to work.
    """
    spec, found = shop.inputs.spec, find_permutations(steps, shop)
    if steps:
        found = align.moved_along(found, shop.family("naive"), _permutation_spec(shop))
    assert isinstance(found, align.Family)
    alignments = keep_permutations(found.permutations, found, permutation_file, shop)
    for name, alignment in alignments.items():
        shop.keep(aligned_file(name), found.states[name], **applied(alignment))
        if spec.align is not None and spec.align.apply_to == "sequence":
            own = spec.steps_of(name)
            for step in own:
                if step != end_of(own):
                    state = alignment.apply(shop.read(checkpoint_file(spec, name, step)))
                    shop.write(aligned_file(f"{name}@{step}"), state, **applied(alignment))
    groups = [
        {
            "name": name,
            "size": effect.size,
            "moved": effect.moved,
            "objective": {"before": effect.objective_before, "after": effect.objective},
            "similarity": {"before": effect.similarity_before, "after": effect.similarity},
        }
        for name, effect in found.groups.items()
    ]
    objective = {
        "before": found.objective_before,
        "after": found.objective,
        "traces": found.traces,
    }
    return {
        "objective": objective,
        "groups": groups,
        "saw": found.saw,
        "cut_off": found.cut_off,
    }


def find_permutations(steps: Sequence[str], shop: Workshop) -> align.Family | align.Sequences:
    """Return the alignment of the networks at `steps` of their sequences; none is the end.

    Several are stacked: one permutation is found for all.
    """
    settings = shop.inputs.spec.align
    if settings is None:
        raise RunError("the spec has no `align` section")
    if len(steps) > 1:
        checkpoints_of = [shop.checkpoints_of(step) for step in steps]
        sequences = {name: [each[name] for each in checkpoints_of] for name in checkpoints_of[0]}
        return align.align_sequences(
            sequences,
            _permutation_spec(shop),
            reference=settings.reference,
            device=str(shop.inputs.device),
            progress=shop.progress,
            **settings.options,
        )
    networks = shop.checkpoints_of(steps[0]) if steps else shop.family("naive")
    return _align(networks, settings.reference, shop)


def match_pair(one: str, other: str, shop: Workshop) -> align.Family:
    """Return the alignment of network `one` to network `other`, of these two alone."""
    pair = {name: shop.read(network_file(name)) for name in (other, one)}
    return _align(pair, other, shop)


def _align(states: Mapping[str, State], reference: str, shop: Workshop) -> align.Family:
    settings = shop.inputs.spec.align
    if settings is None:
        raise RunError("the spec has no `align` section")
    data = shop.inputs.data if shop.inputs.spec.looks_at != "weights" else None
    return align.align(
        states,
        _permutation_spec(shop),
        reference=reference,
        method=settings.method,
        model=None if data is None else shop.module(),
        data=data,
        device=str(shop.inputs.device),
        progress=shop.progress,
        **settings.options,
    )


def keep_permutations(
    names: Iterable[str],
    found: align.Family | align.Sequences,
    file: Callable[[str], str],
    shop: Workshop,
) -> dict[str, Alignment]:
    """Write the permutations of networks `names` to `file` of each name, and return them."""
    spec = _permutation_spec(shop)
    spec = replace(spec, architecture=shop.inputs.architecture, options=shop.inputs.options)
    alignments = {
        name: Alignment(found.permutations[name], spec, name, reference=found.reference)
        for name in names
    }
    for name, alignment in alignments.items():
        alignment.save(shop.folder.path / file(name))
    return alignments


def _permutation_spec(shop: Workshop) -> PermutationSpec:
    found = shop.inputs.permutations
    if found is None:
        raise RunError("nothing is aligned, so there is no permutation spec")
    return found.spec


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
        known=read_points(known),
        ends=read_points(networks.get("points", [])),
        keep=lambda point, found: shop.folder.keep_point(name, key, plain_point(point, found)),
        progress=shop.progress,
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


def measure_merged(recipe: str, calibration: str, shop: Workshop) -> Result:
    """Measure a merged network."""
    engine = shop.engine_of(f"merged/{recipe}/model.safetensors", calibration)
    shop.progress(f"evaluating {recipe}", 0, 1)
    measured = engine.measure((1.0,))
    shop.progress(f"evaluating {recipe}", 1, 1)
    return plain_point((1.0,), measured)


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
