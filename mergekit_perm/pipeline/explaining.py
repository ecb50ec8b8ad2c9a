"""What every option of a recipe is, tensor by tensor, before anything is merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mergekit_perm import checkpoints, merge, networks
from mergekit_perm.pipeline.outline import outline
from mergekit_perm.spec import RunSpec
from mergekit_perm.spec.merge_models import MergeSpec
from mergekit_perm.spec.recipes import DATA_RECIPES


@dataclass(frozen=True, slots=True)
class Explained:
    """What a recipe does with one tensor.

    Attributes:
        depth: where it sits, from 0 (stem and first block) to 1 (last block and head).
        copied: it is a counter, which is copied, and no option matters.
        options: their values; by network where an option has a value for each.
    """

    depth: float
    copied: bool
    options: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"depth": self.depth, "copied": self.copied, "options": self.options}


def explained(spec: RunSpec, recipe: MergeSpec) -> dict[str, Explained]:
    """Return for every tensor of the architecture what `recipe` does with it.

    Raises:
        NetworkError: the architecture cannot be built.
        MergeError: what is wrong with the recipe for these tensors, such as a dead filter.
    """
    first = next(iter(spec.networks))
    options = networks.without_weight_options(spec.options_of(first))
    known = outline(spec.architecture_of(first), options)
    tensors = list(checkpoints.once(known.shapes, known.ties))
    given = recipe.parameters.model_dump()
    names = spec.merged_networks(recipe)
    if recipe.method in DATA_RECIPES:  # whose options are the same in all tensors
        found = dict.fromkeys(tensors, given)
    else:
        found = merge.explain(
            names, tensors, method=recipe.method, base_model=recipe.base_model, **given
        )
    merged = [name for name in names if name != recipe.base_model]
    depths = merge.depths(tensors)
    return {
        name: Explained(
            depths[name],
            name in known.counters,
            {option: _by_network(value, merged) for option, value in found[name].items()},
        )
        for name in tensors
    }


def _by_network(value: Any, names: list[str]) -> Any:
    return dict(zip(names, value, strict=True)) if isinstance(value, list) else value
