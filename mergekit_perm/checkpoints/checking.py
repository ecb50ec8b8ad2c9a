"""Whether a state dict fits a network, what it holds, and a name for its content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

from mergekit_perm.errors import CheckpointError, suggest

_SHOWN = 10


def shapes(network: nn.Module | Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a module's state, or in a state dict."""
    state = network.state_dict() if isinstance(network, nn.Module) else network
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def fit(
    state: Mapping[str, torch.Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    source: str,
) -> None:
    """Check that `state` has the tensors of a network, all of them and no others.

    Args:
        state: the weights.
        shapes: the shape of every tensor of the network, as the function `shapes` gives them.
        source: what to call the weights in the message.

    Raises:
        CheckpointError: listing tensors that are missing, extra, or of another shape.
    """
    missing = [name for name in shapes if name not in state]
    extra = [name for name in state if name not in shapes]
    other = [
        f"{name}: {list(state[name].shape)} in the file, {list(shape)} in the network"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != tuple(shape)
    ]
    if not (missing or extra or other):
        return
    lines = [f"{source} does not fit the network:"]
    lines += _listed("missing", missing[:_SHOWN], len(missing))
    lines += _listed("extra", [n + suggest(n, missing) for n in extra[:_SHOWN]], len(extra))
    lines += _listed("of another shape", other[:_SHOWN], len(other))
    if len(missing) == len(shapes):
        lines.append("  no tensor has a name of this network: is it of another architecture?")
    raise CheckpointError("\n".join(lines))


def adapted(
    state: Mapping[str, torch.Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    may_lack: Callable[[str], bool],
    *,
    source: str,
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return a network with zeros for tensors that it lacks, and the names of those.

    A tensor of another shape is lacking as well, and one that the network has beyond `shapes` is
    left out, where `may_lack` allows it.

    Args:
        state: the weights.
        shapes: the shape of every tensor of the network that is wanted.
        may_lack: tells of a tensor's name whether a network may do without it.
        source: what to call the weights in the message.

    Raises:
        CheckpointError: as `fit` does, for tensors that may not be lacking.
    """
    own = {name: tensor for name, tensor in state.items() if name in shapes or not may_lack(name)}
    absent = [
        name
        for name, shape in shapes.items()
        if may_lack(name) and (name not in own or tuple(own[name].shape) != tuple(shape))
    ]
    filled = {**own, **{name: torch.zeros(shapes[name]) for name in absent}}
    fit(filled, shapes, source=source)
    return {name: filled[name] for name in shapes}, absent


def _listed(title: str, shown: Sequence[str], count: int) -> list[str]:
    if not count:
        return []
    more = [f"    (+{count - len(shown)} more)"] if count > len(shown) else []
    return [f"  {count} {title}:", *(f"    {line}" for line in shown), *more]


def check_finite(state: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Check that no tensor holds NaN or an infinity.

    Raises:
        CheckpointError: naming the tensors and how many of each they hold.
    """
    bad = list(_not_finite(state))
    if bad:
        lines = [f"{source} holds numbers that are not finite:"]
        lines += _listed("tensors", bad[:_SHOWN], len(bad))
        raise CheckpointError("\n".join([*lines, "  was its training run diverging?"]))


def _not_finite(state: Mapping[str, torch.Tensor]) -> Iterable[str]:
    for name, tensor in state.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        # One pass where all is well: whatever is not finite makes the sum so, as an overflow may.
        if bool(tensor.sum().isfinite()):
            continue
        nans = int(torch.isnan(tensor).sum())
        infinities = int(torch.isinf(tensor).sum())
        if nans or infinities:
            yield f"{name}: {nans} NaN, {infinities} infinite, of {tensor.numel()}"


def state_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Return a hash of names, dtypes, shapes and bits; the order of the names does not matter."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{len(name)}:{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
