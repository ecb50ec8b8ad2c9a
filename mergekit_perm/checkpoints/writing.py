"""Writing state dicts as safetensors, byte for byte the same for the same content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from mergekit_perm.checkpoints import reading, tied
from mergekit_perm.checkpoints.hashes import content_sha256
from mergekit_perm.errors import CheckpointError
from mergekit_perm.files import replacing


def save(
    path: str | Path,
    state: Mapping[str, torch.Tensor],
    *,
    metadata: Mapping[str, str] = {},
    ties: Mapping[str, str] = {},
) -> str:
    """Write `state` to `path` as safetensors in one step, and return the SHA-256 of the file.

    The same tensors and metadata give the same bytes. Tensors that share memory are written
    apart, as the format demands, but for those in `ties`; inputs are left as they are.

    Args:
        path: where to write; the folder is made when missing.
        state: tensors by name, on any device.
        metadata: text by name, for the header; ``format: pt`` is added, which readers expect.
        ties: names that are left out, each with the name that stands for it, as the function
            `ties` gives them; the header says so, as safetensors' `load_model` expects.

    Raises:
        CheckpointError: for a tensor of a kind that safetensors cannot hold, or one that another
            should stand for and does not equal.
    """
    path = Path(path)
    tied.check_tied(state, ties, source=str(path))
    written = tied.once(state, ties)
    left_out = {name: ties[name] for name in state if name not in written}
    header = {"format": "pt", **metadata, **left_out}
    with replacing(path) as temporary:
        try:
            save_file(_separate(written), temporary, metadata=header)
        except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as cause:
            raise CheckpointError(f"{path}: cannot be written as safetensors: {cause}") from cause
        _sort_header(temporary)
    return content_sha256(path)


def load_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, in the order of their names, tied ones by each.

    Raises:
        CheckpointError: when the file is missing or damaged.
    """
    return {name: tensor.clone() for name, tensor in map_state(path).items()}


def map_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file as parts of the file, which is mapped into memory.

    They take no memory of their own until they are written to, which leaves the file as it is. The
    file may be replaced or removed, but must not be written to, while they are in use. Tied tensors
    are there under each name, and are one.

    Raises:
        CheckpointError: when the file is missing or damaged.
    """
    state = tied.read(Path(path))
    return {name: state[name] for name in sorted(state)}


def load_metadata(path: str | Path) -> dict[str, str]:
    """Return the text that the header of a safetensors file holds by name.

    Raises:
        CheckpointError: when the file is missing or damaged.
    """
    return reading.metadata(Path(path))


def _separate(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return contiguous CPU tensors of which no two share memory."""
    separate: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, given in state.items():
        tensor = given.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.numel() * tensor.itemsize:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        separate[name] = tensor
    return separate


def _sort_header(path: Path) -> None:
    """Put the metadata of a safetensors file in order: its writer leaves it to chance."""
    with path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        # The same entries in another order are as long as before; spaces fill to the boundary.
        if len(text) <= length:
            stream.seek(8)
            stream.write(text.ljust(length))
