"""Weighted sums of tensors: the one rule that mixing (evaluate) and merging (merge) share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

State = dict[str, torch.Tensor]

# Numbers at a time: half a megabyte of them.
_PART = 2**16


def weighted_sum(
    tensors: Sequence[torch.Tensor], weights: Sequence[float], *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Return sum_i `weights[i]` * `tensors[i]`, or write it into `out` and return that.

    Floating and complex tensors are summed in float64 (float32 where a device has no float64) and
    rounded once to their own dtype; tensors of weight 0 are never read, so that an infinity in
    one cannot leak, and a lone weight of 1 copies bit for bit. Anything else (integer and boolean
    buffers such as `num_batches_tracked`) has no meaningful average: it is copied from the first
    tensor whose weight is not 0.

    Args:
        tensors: one or more tensors of one shape, on one device.
        weights: as many numbers; they need not sum to 1.
        out: where to write, of the same shape and on the same device; may have another dtype.
    """
    used = [(tensor, weight) for tensor, weight in zip(tensors, weights, strict=True) if weight]
    first, weight = used[0] if used else (tensors[0], 0.0)
    countable = not (first.is_floating_point() or first.is_complex())
    if countable or (len(used) == 1 and weight == 1.0):
        return first.clone() if out is None else out.copy_(first)
    result = torch.empty_like(first) if out is None else out
    if not used:
        return result.zero_()
    for place, start, *others in parts([result, *(tensor for tensor, _ in used)]):
        total = start.to(wide(start), copy=True).mul_(weight)
        for part, (_, factor) in zip(others, used[1:], strict=True):
            # What has eight bits takes no part in sums of another dtype.
            total.add_(part.to(total.dtype) if part.itemsize == 1 else part, alpha=factor)
        place.copy_(total)
    return result


def parts(tensors: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield the same parts of all `tensors`, small enough to stay in the cache of a processor.

    Parts share memory with the tensors. Where one of these is not contiguous, and on other devices
    than the CPU, there is one part: the tensors as they are.

    Args:
        tensors: one or more of one shape, on one device.
    """
    if tensors[0].device.type != "cpu" or not all(t.is_contiguous() for t in tensors):
        return iter([tuple(tensors)])
    return zip(*(torch.split(tensor.view(-1), _PART) for tensor in tensors), strict=True)


def mismatch(states: Mapping[str, Mapping[str, torch.Tensor]]) -> str:
    """Return how the tensors of `states` differ in name or shape, or ``""`` when they agree.

    Args:
        states: state dicts by the name to use for them; all are compared with the first.
    """
    (reference, expected), *others = states.items()
    for name, state in others:
        for tensor in [*expected, *state]:
            if tensor not in state:
                return f"'{name}' has no tensor '{tensor}', which '{reference}' has"
            if tensor not in expected:
                return f"'{name}' has a tensor '{tensor}', which '{reference}' has not"
            found, wanted = tuple(state[tensor].shape), tuple(expected[tensor].shape)
            if found != wanted:
                return f"tensor '{tensor}' is {found} in '{name}' and {wanted} in '{reference}'"
    return ""


def wide(tensor: torch.Tensor) -> torch.dtype:
    """Return the dtype that sums of `tensor` are taken in."""
    # Apple's GPUs have no float64; float32 is then the best there is.
    widest = torch.float32 if tensor.device.type == "mps" else torch.float64
    return widest.to_complex() if tensor.is_complex() else widest
