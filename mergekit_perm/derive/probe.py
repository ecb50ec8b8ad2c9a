"""A fresh network and the inputs to try it with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mergekit_perm import networks
from mergekit_perm.derive.inputs import Inputs, output_of
from mergekit_perm.errors import NetworkError

# Images of this edge show every symmetry that larger ones do, at a twelfth of the cost of 224.
_EDGE = 64

Shape = tuple[int, ...]


def probe(architecture: str, options: Mapping[str, Any]) -> tuple[nn.Module, Inputs]:
    """Return a new module and two random examples, small where the network takes any size.

    The examples are the module's own ``example_inputs`` where it has some. Otherwise sizes are
    tried from small to large, up to the network's own, until one runs that is not too tiny for
    attention and convolutions.

    Raises:
        NetworkError: the architecture cannot be built, does not say what input it takes, or does
            not run on that.
    """
    module = networks.build(architecture, options, seed=0)
    for inputs in _candidates(module, options):
        tiny, cause = _Tininess(), None
        try:
            with torch.no_grad(), tiny:
                output_of(module, inputs)
        except Exception as error:
            cause = error
        if cause is None and not tiny.found:
            break
    if cause is None:  # what is tiny even at the network's own size is meant to be
        return module, inputs
    reason = " ".join(str(cause).split()) or "no reason given"
    raise NetworkError(
        f"{architecture} does not run on {_described(inputs)}: {type(cause).__name__}: {reason}"
    ) from cause


def _candidates(module: nn.Module, options: Mapping[str, Any]) -> Iterator[Inputs]:
    """Yield the inputs worth trying, the network's own last."""
    own: Inputs | None = networks.example_inputs(module)
    if own is not None:
        yield own
        return
    for shape in _shapes(module, options):
        yield torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


def _described(inputs: Inputs) -> str:
    if isinstance(inputs, torch.Tensor):
        return f"inputs of shape {tuple(inputs.shape)}"
    return "its example_inputs"


def _shapes(module: nn.Module, options: Mapping[str, Any]) -> Iterator[Shape]:
    """Yield the shapes of one example worth trying, smallest first; the network's own is last."""
    channels, *own = networks.input_shape(module, options)
    least = networks.least_edge(module, options)
    if least is not None:
        for edge in range(max(_EDGE, least), max(own), 32):
            yield (channels, *(min(edge, length) for length in own))
    yield (channels, *own)


class _Tininess(TorchFunctionMode):
    """Finds out whether an image is so small that some operations have nothing left to do.

    Attention over one token does not look at queries and keys, and a convolution over one pixel
    only at the centre of its kernel.
    """

    found = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func` and look at the shapes that it gets."""
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        given = {**dict(zip(_ARGUMENTS.get(name, ()), args, strict=False)), **(kwargs or {})}
        if name == "softmax":
            self.found |= result.shape[given.get("dim") or 0] == 1
        elif name == "scaled_dot_product_attention":
            self.found |= given["key"].shape[-2] == 1
        elif name == "conv2d":
            image, kernel = given["input"].shape[2:], given["weight"].shape[2:]
            self.found |= max(image) == 1 < max(kernel)
        return result


_ARGUMENTS = {
    "softmax": ("input", "dim"),
    "scaled_dot_product_attention": ("query", "key"),
    "conv2d": ("input", "weight"),
}
