"""What pruning does in a run: networks without some weights, trained from where they rewind.

A mask says which weights a network keeps. Its own come from its magnitudes, level by level; one
that another network gave it is trained in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping

from mergekit_perm import networks, train
from mergekit_perm.errors import RunError
from mergekit_perm.pipeline.networks_cache import from_cache, keep_network
from mergekit_perm.pipeline.workshop import Result, State, Workshop, mask_file, network_file
from mergekit_perm.spec.models import PruneSpec

# How far apart the seeds of further trainings of one network are.
_APART = 2**32


def prune_network(name: str, keys: Mapping[str, str], shop: Workshop) -> Result:
    """Prune network `name` level by level, each time trained again from where it is rewound to.

    Args:
        name: of the network.
        keys: the content keys of the levels, in order.
        shop: where to work.
    """
    pruning = _pruning(name, shop)
    state = shop.read(network_file(name))
    mask = train.whole_mask(state, prunable(name, shop))
    shares = []
    for step, key in keys.items():
        mask = train.next_mask(state, mask, pruning.fraction)
        shares.append(train.kept_share(mask))
        shop.write(mask_file(name, step), mask, content=key)
        known = from_cache(key, shop)
        state = known or train_masked(
            name, mask, f"training {name}, {100 * shares[-1]:.3g} % of its weights", shop
        )
        keep_network(network_file(f"{name}@{step}"), state, key, shop)
    return {"kept": shares}


def train_masked(
    name: str, mask: train.Mask, task: str, shop: Workshop, *, training: int = 0
) -> State:
    """Return network `name` trained to its end, from where pruning rewinds it, under `mask`.

    Args:
        name: of the network.
        mask: by tensor, True where a weight is kept.
        task: what to call this.
        shop: where to work.
        training: 0 is in the order of examples that the network was trained in; others are others.
    """
    spec, inputs = shop.inputs.spec, shop.inputs
    settings = spec.networks[name].train
    if settings is None or inputs.data is None:
        raise RunError(f"network '{name}' cannot be pruned: it is not trained here")
    module = networks.build(spec.architecture_of(name), spec.options_of(name), seed=settings.seed)
    module.load_state_dict(rewound(name, shop))
    train.fit(
        module,
        inputs.data.splits["train"],
        train.Recipe(**spec.training(name).keywords()),
        seed=settings.seed + training * _APART,
        device=inputs.device,
        start=_pruning(name, shop).rewind,
        mask=mask,
        progress=shop.progress,
        task=task,
    )
    return train.copied(module)


def rewound(name: str, shop: Workshop) -> State:
    """Return network `name` as it was at the epoch to which pruning rewinds it."""
    return shop.read(network_file(f"{name}@{_pruning(name, shop).rewind}"))


def prunable(name: str, shop: Workshop) -> list[str]:
    """Return the tensors of network `name` that are pruned."""
    return train.prunable(shop.module(), _pruning(name, shop).exclude)


def _pruning(name: str, shop: Workshop) -> PruneSpec:
    pruning = shop.inputs.spec.pruning(name)
    if pruning is None:
        raise RunError(f"network '{name}' is not pruned")
    return pruning
