"""What is inside a file of weights, without ever running code that the file carries."""

from __future__ import annotations

import argparse
import contextlib
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mergekit_perm.errors import CheckpointError

ENDINGS = (".safetensors", ".pth", ".pt", ".pth.tar", ".bin", ".ckpt")

_POINTER = b"version https://git-lfs.github.com/spec/"
_BLOCKED = re.compile(r"(?:GLOBAL|class|function) ([\w.]+\.[\w.]+)")
_AGAIN = "it is damaged or not a checkpoint; copy or download it again"


def read(path: Path) -> Any:
    """Return the content of `path`: a flat dict of tensors, or whatever `torch.save` wrote.

    Tensors of safetensors are parts of the file, which is mapped into memory; what is to outlive a
    change of the file is for the caller to copy.

    Only tensors, numbers, strings, containers and `argparse.Namespace` are unpickled.

    Raises:
        CheckpointError: for a file that is missing, damaged, or would run code.
    """
    if not path.name.endswith(ENDINGS):
        raise CheckpointError(
            f"{path}: not a checkpoint by its name; expected an ending among {', '.join(ENDINGS)}"
        )
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_POINTER))
    except OSError as cause:
        raise CheckpointError(f"{path}: cannot be opened: {cause.strerror or cause}") from cause
    if start == _POINTER:
        raise CheckpointError(
            f"{path}: is a Git LFS pointer, not the weights; fetch them with `git lfs pull`"
        )
    return _mapped(path) if path.suffix == ".safetensors" else _pickled(path)


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata in the header of the safetensors file `path`; errors as `read`."""
    with _opened(path) as found:
        return dict(found.metadata() or {})


def opened(path: Path) -> Any:
    """Return the safetensors file `path` opened, for as long as that is held; errors as `read`."""
    with _explained(path):
        return safe_open(path, framework="pt")


def _mapped(path: Path) -> dict[str, torch.Tensor]:
    with _opened(path) as found:
        return {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with _explained(path), safe_open(path, framework="pt") as found:
        yield found


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, ValueError, RuntimeError) as cause:
        raise CheckpointError(
            f"{path}: cannot be read as safetensors ({cause}): {_AGAIN}"
        ) from cause


def _pickled(path: Path) -> Any:
    try:
        # timm's train.py saves its arguments as a Namespace, which is plain data.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # Old tensors in a file make torch warn about its own storage classes.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as cause:
        blocked = _blocked(path, str(cause))
        if not blocked:
            # The words of the cause advise to switch the protection off.
            raise CheckpointError(
                f"{path}: cannot be read as torch.save writes files: {_AGAIN}"
            ) from cause
        raise CheckpointError(
            f"{path}: refused, because reading it would run or build {', '.join(blocked)}; "
            "nothing of it was run. If you trust the file, load it yourself and save only "
            "the state dict: torch.save(model.state_dict(), 'weights.pth')"
        ) from cause
    except Exception as cause:
        reason = (str(cause) or "it ends too early").strip().splitlines()[0]
        raise CheckpointError(
            f"{path}: cannot be read ({type(cause).__name__}: {reason}): {_AGAIN}"
        ) from cause


def _blocked(path: Path, message: str) -> list[str]:
    """Return the globals of a pickle that are not on the list of harmless ones."""
    names: list[str] = []
    if zipfile.is_zipfile(path):
        with contextlib.suppress(Exception):  # an archive, but not one of torch's
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    else:
        names = list(_globals(path))
    return sorted(set(names or _BLOCKED.findall(message)) - {"argparse.Namespace"})


def _globals(path: Path) -> Iterator[str]:
    """Yield the globals that a bare pickle names; the pickle is looked at, not run."""
    strings: list[str] = []
    try:
        with path.open("rb") as stream:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL":
                    yield ".".join(strings[-2:])
                elif isinstance(argument, str):
                    strings.append(argument)
    except ValueError:  # no pickle, or not from here on
        return


def is_state(value: Any) -> bool:
    """Return whether `value` maps names to tensors, and nothing else."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) for name in value)
        and all(isinstance(tensor, torch.Tensor) for tensor in value.values())
    )
