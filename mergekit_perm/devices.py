"""Choosing the device that networks are aligned and evaluated on."""

from __future__ import annotations

import torch

from mergekit_perm.errors import EvaluationError, suggest


def device(name: str | torch.device) -> torch.device:
    """Return the device called `name`, after making sure that it is there.

    Args:
        name: ``auto`` (CUDA, else Apple's MPS, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or
            ``mps``; or a device of PyTorch, which is taken as it is.

    Raises:
        EvaluationError: a name that is not one of these, or a device that is not there.
    """
    if isinstance(name, torch.device):
        return name
    here = _available()
    if name == "auto":
        return torch.device(here[0])
    if name in here or (name == "cuda" and "cuda:0" in here):
        return torch.device(name)
    known = ["auto", "cpu", "cuda", "mps"]
    if name in known or (name.startswith("cuda:") and name[5:].isdecimal()):
        raise EvaluationError(f"device '{name}' is not available; there is {', '.join(here)}")
    raise EvaluationError(
        f"no device '{name}'{suggest(name, known)}; choose auto, cpu, cuda, cuda:N or mps"
    )


def in_float64(tensor: torch.Tensor) -> torch.Tensor:
    """Return `tensor` in float64, on the CPU if its device has no float64 (Apple's MPS)."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def _available() -> list[str]:
    """Return the devices that are there, the preferred one first."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, "cpu"]
