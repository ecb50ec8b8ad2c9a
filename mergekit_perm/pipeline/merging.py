"""What the stages of merging do: one merged network each, written and read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from mergekit_perm import checkpoints, merge, networks
from mergekit_perm.errors import RunError
from mergekit_perm.files import write_text
from mergekit_perm.merge.fisher import fisher
from mergekit_perm.merge.greedy_soup import greedy_soup
from mergekit_perm.merge.regmean import regmean
from mergekit_perm.pipeline.calibrated import calibrated
from mergekit_perm.pipeline.missing import absent_tensors, settled
from mergekit_perm.pipeline.workshop import Result, State, Workshop
from mergekit_perm.spec import resolved
from mergekit_perm.spec.merge_models import MergeSpec
from mergekit_perm.spec.recipes import DATA_RECIPES

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def merge_networks(recipe: MergeSpec, alignment: str, shop: Workshop) -> Result:
    """Merge networks by `recipe`; write weights, config and spec, and read the weights back."""
    folder = f"merged/{recipe.name}"
    states = shop.merged_from(recipe, alignment)
    order = tuple(shop.inputs.outline.shapes)
    family = {name: _Given(state, recipe, order) for name, state in states.items()}
    merged, soup = _merged(recipe, family, shop)
    merged = _with_missing(recipe, merged, family, shop)
    merged = checkpoints.completed(merged, shop.inputs.outline.ties)
    merged, done = calibrated(recipe, merged, family, shop)
    merged = {name: _as_asked(tensor, recipe) for name, tensor in merged.items()}
    file = f"{folder}/model.safetensors"
    shop.write(file, merged, format="pt", recipe=recipe.name)
    write_text(
        shop.folder.path / folder / "config.json",
        json.dumps(shop.inputs.outline.config, indent=2) + "\n",
    )
    write_text(shop.folder.path / folder / "perm_merge_config.yml", resolved(shop.inputs.spec))
    back = shop.read(file)
    if any(not torch.equal(back[tensor], merged[tensor]) for tensor in merged):
        raise RunError(f"{shop.folder.path / file}: what was written does not read back the same")
    return {"file": file, **soup, **done}


class _Given(Mapping[str, torch.Tensor]):
    """A network as recipes are given it: half precision is widened where more is asked for.

    Tensors are made when they are asked for, so that one is in memory at a time. Their names are in
    the order of the network, which gradients over depth go by; files have them sorted.
    """

    def __init__(
        self, state: Mapping[str, torch.Tensor], recipe: MergeSpec, order: Sequence[str]
    ) -> None:
        self._state, self._widened, self._order = state, recipe.out_dtype is not None, order

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self._state[name]
        if self._widened and tensor.dtype in (torch.float16, torch.bfloat16):
            return tensor.float()
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)


def _merged(
    recipe: MergeSpec, family: Mapping[str, _Given], shop: Workshop
) -> tuple[State, Result]:
    """Return the merged network, and for a greedy soup who is in it."""
    names = shop.inputs.spec.merged_networks(recipe)
    if recipe.method in DATA_RECIPES:
        return _looking_at_data(recipe, {name: dict(family[name]) for name in names}, shop)
    merged = merge.merge_tensors(
        {name: family[name] for name in names},
        method=recipe.method,
        base_model=recipe.base_model,
        ties=shop.inputs.outline.ties,
        **recipe.parameters.model_dump(),
    )
    return dict(merged), {}


def _looking_at_data(
    recipe: MergeSpec, states: Mapping[str, State], shop: Workshop
) -> tuple[State, Result]:
    inputs, options = shop.inputs, recipe.parameters.model_dump()
    if inputs.data is None:
        raise RunError(f"{recipe.method} looks at data, and there are none")
    if recipe.method == "greedy_soup":
        soup = greedy_soup(states, loss=lambda state: _held_out_loss(recipe, state, shop))
        return soup.state, {"soup": {"networks": soup.networks, "losses": dict(soup.losses)}}
    weight = options.pop("weight")
    functions: Mapping[str, Callable[..., State]] = {"fisher": fisher, "regmean": regmean}
    return functions[recipe.method](
        states,
        model=networks.build(inputs.architecture, inputs.options, seed=0),
        split=inputs.data.splits["train"],
        weight=weight if isinstance(weight, dict) else dict.fromkeys(states, weight),
        device=inputs.device,
        progress=shop.progress,
        **options,
    ), {}


def _held_out_loss(recipe: MergeSpec, state: State, shop: Workshop) -> float:
    engine = shop.engine_for(object(), lambda: {recipe.name: state}, "none")
    return engine.measure((1.0,))[shop.inputs.spec.held_out_split].loss


def _with_missing(
    recipe: MergeSpec, merged: State, family: Mapping[str, _Given], shop: Workshop
) -> State:
    """Return a merged network with what the spec says of tensors that networks lack."""
    spec = shop.inputs.spec
    names = spec.merged_networks(recipe)
    absent = {name: absent_tensors(name, shop.results) for name in family}
    found: State = {}
    for tensor, value in merged.items():
        stands = settled(tensor, value, family, names, absent, spec)
        if stands is not None:
            found[tensor] = stands
    return found


def _as_asked(tensor: torch.Tensor, recipe: MergeSpec) -> torch.Tensor:
    if recipe.out_dtype is None or not tensor.is_floating_point():
        return tensor
    return tensor.to(_DTYPES[recipe.out_dtype])


def merged_words(result: Mapping[str, Any]) -> str:
    """Return who is in a greedy soup, as a note; "" for other recipes."""
    soup = result.get("soup")
    if soup is None:
        return ""
    left = [name for name in soup["losses"] if name not in soup["networks"]]
    without = f", without {', '.join(left)}, which did not lower the loss" if left else ""
    return f"the soup is of {', '.join(soup['networks'])}{without}"
