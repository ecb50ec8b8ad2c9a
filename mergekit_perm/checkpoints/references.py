"""From a reference to weights (a file, a folder, a repository) to one state dict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mergekit_perm.checkpoints import reading, tied
from mergekit_perm.checkpoints.hashes import content_sha256
from mergekit_perm.errors import CheckpointError, suggest

State = dict[str, torch.Tensor]

# In the order in which timm looks for them.
_EMA_KEYS = ("state_dict_ema", "model_ema")
_PLAIN_KEYS = ("state_dict", "model")
_PREFIXES = ("_orig_mod.", "module.")
_PREFERRED = (
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
_IN_REPOSITORY = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights that were read, and where exactly they come from.

    Attributes:
        state: every tensor by name, on the CPU, sharing memory with nothing.
        source: what was asked for and, for a folder or a repository, which file it was.
        key: the entry of the file that holds the state dict, ``state_dict_ema`` for instance;
            None when the file is the state dict.
        sha256: hash of the file's bytes; None when there is no file.
    """

    state: State
    source: str
    key: str | None
    sha256: str | None


def load(
    reference: str, *, ema: bool | Literal["auto"] = "auto", folder: Path | None = None
) -> Checkpoint:
    """Read weights from a file, from a folder as timm saves it, or from the Hugging Face hub.

    Args:
        reference: a path to .safetensors, .pth, .pt, .pth.tar, .bin or .ckpt; ``local-dir:PATH``;
            or ``hf-hub:org/id`` with an optional ``@revision``.
        ema: whether to take the weights averaged during training. ``"auto"`` takes them when the
            file has them, as timm does (``state_dict_ema``, ``model_ema``, ``state_dict``,
            ``model``); True fails when it has none; False never takes them.
        folder: what relative paths are relative to; the current folder by default.

    Raises:
        CheckpointError: when there is no such file, it cannot be read safely, or holds no weights.
    """
    path, source = _located(reference, folder or Path())
    key, state = _chosen(tied.read(path), ema, path)
    return Checkpoint(
        state=_own(_without_prefixes(state), path),
        source=source,
        key=key,
        sha256=content_sha256(path),
    )


def plain_file(
    reference: str,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    folder: Path,
    ties: Mapping[str, str] = {},
) -> Path | None:
    """Return the file of `reference` if it is the weights as they are, and can be used as it is.

    That is a safetensors file with just the tensors that `shapes` says, each of which is there
    once (see `ties`); None for any other.

    Raises:
        CheckpointError: as `load` does.
    """
    path = local_file(reference, folder=folder)
    if path is None or path.suffix != ".safetensors":
        return None
    state = tied.read(path)
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    written_once = len(reading.read(path)) == len(shapes) - len(ties)
    return path if found == dict(shapes) and written_once else None


# ------------------------------------------------------------------------------------- locating


def local_file(reference: str, *, folder: Path) -> Path | None:
    """Return the file on this machine that `reference` means; None for one on a hub.

    Raises:
        CheckpointError: there is no such file or folder.
    """
    if reference.startswith(("hf-hub:", "hf_hub:")):
        return None
    return _located(reference, folder)[0]


def _located(reference: str, folder: Path) -> tuple[Path, str]:
    """Return the file that `reference` means, and how to name it."""
    kind, colon, rest = reference.partition(":")
    if colon and kind == "local-dir":
        path = _in_folder(folder / Path(rest).expanduser())
        return path, f"local-dir:{path}"
    if colon and kind in ("hf-hub", "hf_hub"):
        return _from_hub(rest)
    path = folder / Path(reference).expanduser()
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; write 'local-dir:{reference}'")
    if not path.is_file():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise CheckpointError(f"{path}: no such file{suggest(path.name, near)}")
    return path, str(path)


def _in_folder(folder: Path) -> Path:
    """Return the file of weights that timm takes from `folder`."""
    if not folder.is_dir():
        raise CheckpointError(f"local-dir:{folder}: no such folder")
    for name in _PREFERRED:
        if (folder / name).is_file():
            return folder / name
    if any(folder.glob("*.index.json")):
        raise CheckpointError(
            f"local-dir:{folder}: the weights are split over several files; "
            "save them as one model.safetensors, which is also all that timm reads"
        )
    for ending in (".safetensors", ".pth", ".pth.tar", ".bin"):
        found = sorted(folder.glob(f"*{ending}"))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise CheckpointError(
                f"local-dir:{folder}: several files of weights ({names}); name the one to take"
            )
        if found:
            return found[0]
    raise CheckpointError(f"local-dir:{folder}: no weights; expected model.safetensors there")


def _from_hub(identifier: str) -> tuple[Path, str]:
    """Return the file of weights of a repository, downloaded or from the cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = identifier.partition("@")
    offline: Exception | None = None
    for name in _IN_REPOSITORY:
        try:
            # Once the hub could not be reached, a second try would only wait as long again.
            path = hf_hub_download(
                repository, name, revision=revision or None, local_files_only=offline is not None
            )
        except LocalEntryNotFoundError as cause:
            offline = cause
        except EntryNotFoundError:
            continue
        except Exception as cause:
            reason = str(cause).strip().splitlines()[0]
            raise CheckpointError(
                f"hf-hub:{identifier}: cannot be downloaded ({type(cause).__name__}: {reason}); "
                "check the name, the revision and, for a private repository, the login"
            ) from cause
        else:
            return Path(path), f"hf-hub:{identifier}/{name}"
    if offline is not None:
        raise CheckpointError(
            f"hf-hub:{identifier}: offline, and not in the local cache; connect, "
            "or download the repository elsewhere and write 'local-dir:PATH'"
        ) from offline
    raise CheckpointError(
        f"hf-hub:{identifier}: the repository has neither {' nor '.join(_IN_REPOSITORY)}"
    )


# ------------------------------------------------------------------------------------- choosing


def _chosen(
    content: Any, ema: bool | Literal["auto"], path: Path
) -> tuple[str | None, Mapping[str, torch.Tensor]]:
    """Return the state dict in `content` and the key it is under."""
    entries = content if isinstance(content, Mapping) else {}
    keys = (_EMA_KEYS if ema else ()) + (_PLAIN_KEYS if ema is not True else ())
    # A flat state dict may well have a tensor that is called `model`.
    key = next((key for key in keys if isinstance(entries.get(key), Mapping)), None)
    if key is None and ema is True:
        raise CheckpointError(
            f"{path}: no averaged weights ({' or '.join(_EMA_KEYS)}), which `ema: true` asks for; "
            f"{_found(content)}"
        )
    state = content if key is None else entries[key]
    if not reading.is_state(state):
        place = f"'{key}' in it is no state dict" if key else "no state dict"
        raise CheckpointError(
            f"{path}: {place}; {_found(state)}; expected tensors by name, "
            f"alone or under {', '.join(_EMA_KEYS + _PLAIN_KEYS)}"
        )
    return key, state


def _found(content: Any) -> str:
    """Say in a few words what a file holds."""
    if not isinstance(content, Mapping):
        return f"found {type(content).__name__}"
    if not content:
        return "found nothing in it"
    if reading.is_state(content):
        return f"found {len(content)} tensors without a heading"
    odd = [
        f"{name} ({type(value).__name__})"
        for name, value in content.items()
        if not (isinstance(name, str) and isinstance(value, torch.Tensor))
    ]
    more = f" (+{len(odd) - 10} more)" if len(odd) > 10 else ""
    return f"found {', '.join(odd[:10])}{more}"


# ------------------------------------------------------------------------------------- cleaning


def bare_names(given: Iterable[str]) -> dict[str, str]:
    """Return each name without what data parallelism, compilation and averaging put around it.

    The count of averages that torch's AveragedModel keeps beside the module it wraps is left out.
    """
    names = {name: name for name in given}
    rest = [name for name in names if name != "n_averaged"]
    if len(rest) < len(names) and rest and all(name.startswith("module.") for name in rest):
        del names["n_averaged"]
    while names and (prefix := _common_prefix(names.values())) is not None:
        names = {name: short.removeprefix(prefix) for name, short in names.items()}
    # A part that was compiled on its own has the wrapper inside its name.
    return {name: short.replace("._orig_mod.", ".") for name, short in names.items()}


def _without_prefixes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {short: state[name] for name, short in bare_names(state).items()}


def _common_prefix(names: Any) -> str | None:
    return next((p for p in _PREFIXES if all(name.startswith(p) for name in names)), None)


def _own(state: Mapping[str, torch.Tensor], path: Path) -> State:
    """Return contiguous copies that share memory with nothing."""
    own: State = {}
    with torch.no_grad():
        for name, tensor in state.items():
            if tensor.layout != torch.strided or tensor.is_quantized:
                raise CheckpointError(
                    f"{path}: tensor '{name}' is {tensor.layout}, {tensor.dtype}; "
                    "only dense tensors that are not quantized can be used"
                )
            own[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return own
