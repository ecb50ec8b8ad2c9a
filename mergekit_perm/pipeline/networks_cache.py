"""The cache of trained networks: any run finds what another one has trained, by its content key."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mergekit_perm import checkpoints
from mergekit_perm.cache import cache_folder
from mergekit_perm.errors import CheckpointError
from mergekit_perm.pipeline.workshop import State, Workshop


def keep_network(file: str, state: State, key: str, shop: Workshop) -> None:
    """Write a network that was trained to the folder, and to the cache."""
    shop.write(file, state, content=key)
    with suppress(OSError):  # a cache that cannot be written costs time, not the run
        checkpoints.save(_cached(key), state, metadata={"content": key})


def _cached(key: str) -> Path:
    return cache_folder("networks") / f"{key}.safetensors"


def keep_cached(file: str, key: str, shop: Workshop) -> bool:
    """Write the network with this key to `file` of the folder, if the cache has it; tell if so."""
    known = from_cache(key, shop)
    if known is not None:
        shop.write(file, known, content=key)
    return known is not None


def from_cache(key: str, shop: Workshop) -> State | None:
    """Return the network with this key; None when there is none, or none that can be read."""
    file = _cached(key)
    try:
        return checkpoints.load_state(file) if shop.use_cache and file.is_file() else None
    except CheckpointError:
        return None
