"""The same merges by mergekit, which runs as a program of its own; nothing of it is read here.

Skipped unless PERM_MERGE_MERGEKIT names its command ``mergekit-pytorch`` (0.1.5 was compared):

    PERM_MERGE_MERGEKIT=/path/to/bin/mergekit-pytorch pytest tests/merge/test_against_mergekit.py

Networks are two ResNets near a base network, float32, with random BatchNorm statistics, and without
`num_batches_tracked`: mergekit refuses networks whose counters differ. What differs on purpose:

- statistics (`running_mean`, `running_var`): mergekit treats them like weights; here they are
  merged by the plain sum of the recipe (`merge.buffers`). They are compared for `linear` alone.
- `rescale` of random recipes: the papers divide by the chance of being kept, mergekit restores
  the L1 norm. So these are compared without dropping, and by their statistics with.
- `model_stock` with task vectors that point apart: mergekit goes backwards from the base model;
  with `filter_wise`, a filter of a convolution is one vector here, and many of a row each there.
- vectors of 0 have no direction: mergekit takes them for orthogonal, here the line is straight.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mergekit_perm import networks
from mergekit_perm.merge import RECIPES, merge

COMMAND = os.environ.get("PERM_MERGE_MERGEKIT", "")
pytestmark = pytest.mark.skipif(not COMMAND, reason="PERM_MERGE_MERGEKIT names no mergekit-pytorch")
torch.set_num_threads(1)

State = dict[str, torch.Tensor]
WEIGHTS = {"weight": {"a": 0.7, "b": 0.4}}


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    module = networks.build("resnet18", {"num_classes": 10}, seed=0)
    base = {name: t for name, t in module.state_dict().items() if t.is_floating_point()}
    # No vector is 0; see above.
    start = torch.Generator().manual_seed(9)
    for value in base.values():
        if value.dim() == 1:
            value += 0.1 * torch.randn(value.shape, generator=start)
    family = {"base": base}
    for seed, name in enumerate("ab", start=1):
        generator = torch.Generator().manual_seed(seed)
        family[name] = {
            tensor: value + 0.02 * torch.randn(value.shape, generator=generator)
            for tensor, value in base.items()
        }
    # Mostly the same direction, so that there is something for model_stock to find.
    shared = torch.Generator().manual_seed(3)
    for tensor, value in base.items():
        step = 0.03 * torch.randn(value.shape, generator=shared)
        for name in "ab":
            family[name][tensor] = (
                (family[name][tensor] + step).abs()
                if (tensor.endswith("running_var"))
                else family[name][tensor] + step
            )
    return family


@pytest.fixture(scope="module")
def folder(states: dict[str, State], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mergekit")
    for name, state in states.items():
        save_file(state, path / f"{name}.safetensors")
    return path


def by_mergekit(
    folder: Path, method: str, names: str, base: str | None, parameters: dict[str, Any], **keys: Any
) -> State:
    """Merge with mergekit: options for each network stand with it, others at the top."""
    models: list[Any] = []
    for name in names.split():
        own = {k: v[name] for k, v in parameters.items() if isinstance(v, dict) and name in v}
        models.append({"model": str(folder / f"{name}.safetensors"), "parameters": own})
    common = {k: v for k, v in parameters.items() if not isinstance(v, dict)}
    config = {"merge_method": method, "models": models, "parameters": common, "dtype": "float32"}
    if base is not None:
        config["base_model"] = str(folder / f"{base}.safetensors")
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    out = folder / f"out-{len(list(folder.iterdir()))}"
    command = [COMMAND, str(folder / "config.yml"), str(out), "--random-seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    merged: State = {}
    for file in out.glob("*.safetensors"):
        merged |= load_file(file)
    for file in out.iterdir():
        file.unlink()
    return merged


def differences(ours: State, theirs: State, *, statistics: bool = False) -> torch.Tensor:
    """The differences of all elements, over the largest size of an element of their tensor."""
    assert ours.keys() == theirs.keys()
    return torch.cat(
        [
            ((ours[name] - theirs[name]).abs() / ours[name].abs().max()).flatten()
            for name in ours
            if statistics or "running" not in name
        ]
    )


# Norms and angles: mergekit takes them in float32, which costs this much in tensors of millions.
TOLERANCES = {
    "slerp": 5e-5, "nuslerp": 5e-5, "multislerp": 2e-4, "karcher": 5e-5, "model_stock": 2e-4,
}  # fmt: skip


TASK = "a b", "base"
CASES: list[tuple[str, tuple[str, str | None], dict[str, Any]]] = [
    ("linear", ("a b", None), WEIGHTS),
    ("linear", ("a b base", None), {"weight": 0.3, "normalize": False}),
    ("slerp", ("base a", "base"), {"t": 0.3}),
    ("nuslerp", ("a b", None), WEIGHTS),
    ("nuslerp", TASK, WEIGHTS),
    ("nuslerp", TASK, {**WEIGHTS, "nuslerp_flatten": False}),
    ("nuslerp", TASK, {**WEIGHTS, "nuslerp_flatten": False, "nuslerp_row_wise": True}),
    ("multislerp", ("a b base", None), {"weight": {"a": 0.7, "b": 0.4, "base": 1.0}}),
    ("multislerp", TASK, {**WEIGHTS, "normalize_weights": False}),
    ("karcher", ("a b base", None), {}),
    ("task_arithmetic", TASK, {**WEIGHTS, "lambda": 0.8}),
    ("task_arithmetic", TASK, {**WEIGHTS, "normalize": True}),
    ("ties", TASK, {**WEIGHTS, "density": {"a": 0.5, "b": 0.3}, "lambda": 1.2}),
    ("ties", TASK, {"weight": 1.0, "density": 0.5, "normalize": False, "rescale": True}),
    ("breadcrumbs", TASK, {**WEIGHTS, "density": 0.6, "gamma": 0.05}),
    ("breadcrumbs", TASK, {**WEIGHTS}),
    ("breadcrumbs_ties", TASK, {**WEIGHTS, "density": 0.9, "gamma": 0.2, "rescale": True}),
    ("dare_linear", TASK, {**WEIGHTS, "density": 1.0}),
    ("dare_ties", TASK, {**WEIGHTS, "density": 1.0}),
    ("della", TASK, {**WEIGHTS, "density": 1.0}),
    ("della_linear", TASK, {**WEIGHTS, "density": 1.0}),
    ("model_stock", TASK, {}),
    ("model_stock", TASK, {"filter_wise": True}),
    ("sce", TASK, {}),
    ("sce", TASK, {"select_topk": 0.4}),
    ("ram", TASK, {"epsilon": 0.03}),
    ("ramplus_tl", TASK, {"epsilon": 0.05, "r": 0.5, "alpha": 0.7}),
    ("passthrough", ("a", None), {"scale": 0.5}),
]


def test_every_recipe_is_compared() -> None:
    assert {method for method, _, _ in CASES} == set(RECIPES)


@pytest.mark.parametrize(("method", "given", "parameters"), CASES)
def test_the_same_numbers(
    method: str,
    given: tuple[str, str | None],
    parameters: dict[str, Any],
    states: dict[str, State],
    folder: Path,
    record_property: Callable[[str, object], None],
) -> None:
    names, base = given
    family = {
        name: states[name] for name in dict.fromkeys([*([base] if base else []), *names.split()])
    }

    ours = merge(family, method=method, base_model=base, **parameters)
    theirs = by_mergekit(folder, method, names, base, parameters)

    if "filter_wise" in parameters:  # mergekit takes rows along the last axis, even of kernels
        ours, theirs = ({n: t for n, t in s.items() if t.dim() < 3} for s in (ours, theirs))
    statistics = method == "linear" and "normalize" not in parameters
    found = differences(ours, theirs, statistics=statistics)
    record_property("difference", f"{method} {parameters}: {found.max():.1e}")
    off = found > TOLERANCES.get(method, 2e-6)
    # Of vectors of three numbers some are nearly opposite: mergekit's arcs then have no bound.
    few = 1e-3 if parameters.get("nuslerp_flatten") is False else 0.0
    # Elements that are as far from the base as epsilon, to the last bit.
    few = 1e-6 if method.startswith("ram") else few
    assert off.double().mean() <= few, f"{found.max():.1e}, {off.double().mean():.1e} of elements"


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della_linear", "della"])
def test_as_much_is_dropped(method: str, states: dict[str, State], folder: Path) -> None:
    parameters = {"weight": 1.0, "density": 0.5}
    ours = merge(
        {"base": states["base"], "a": states["a"]}, method=method, base_model="base", **parameters
    )
    theirs = by_mergekit(folder, method, "a", "base", parameters)

    name = "layer4.1.conv2.weight"
    base = states["base"][name]
    full = states["a"][name] - base
    for merged in (ours, theirs):
        moved = merged[name] != base
        assert moved.double().mean().item() == pytest.approx(0.5, abs=0.005)
        assert (merged[name] - base).abs().sum() / full.abs().sum() == pytest.approx(1, abs=0.01)
    small = full.abs() < full.abs().quantile(0.1) if full.numel() < 1e7 else full.abs() < 0.005
    shares = [(m[name] != base)[small].double().mean().item() for m in (ours, theirs)]
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
