"""A fresh network and the inputs to try it with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mergekit_perm import checkpoints, networks
from mergekit_perm.derive.inputs import Inputs, output_of
from mergekit_perm.errors import NetworkError, PermutationSpecError
from mergekit_perm.permspec import PermutationSpec

# Images of this edge show every symmetry that larger ones do, at a twelfth of the cost of 224.
_EDGE = 64

# Patches of 14 and of 12 divide this one.
_PATCHES = 84

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """A fresh network and one batch to try it with.

    Attributes:
        module: the network; fit for the inputs, which may be smaller than those it was built for.
        inputs: two random examples, or the network's own ``example_inputs``.
        shapes: of every tensor of the network as it was built.
    """

    module: nn.Module
    inputs: Inputs
    shapes: Mapping[str, Shape]


def probe(
    architecture: str, options: Mapping[str, Any], spec: PermutationSpec | None = None
) -> Probe:
    """Return a new network with inputs of a small size, if the network can take one.

    Sizes are tried from small to large, up to the network's own, until one runs that is not too
    tiny for attention and convolutions. A timm network built for one size is told of a smaller one
    by its ``set_input_size``, or built for it with ``img_size``: positions become fewer.

    Args:
        architecture: what `networks.build` builds, with `options`.
        options: of the architecture.
        spec: a spec that the network of the smaller size has to fit, too; if not, its own is taken.

    Raises:
        NetworkError: the architecture cannot be built, does not say what input it takes, or does
            not run on that.
    """
    for found in _candidates(architecture, options, spec):
        tiny, cause = _Tininess(), None
        try:
            with torch.no_grad(), tiny:
                output_of(found.module, found.inputs)
        except Exception as error:
            cause = error
        if cause is None and not tiny.found:
            break
    if cause is None:  # what is tiny even at the network's own size is meant to be
        return found
    reason = " ".join(str(cause).split()) or "no reason given"
    given = _described(found.inputs)
    raise NetworkError(
        f"{architecture} does not run on {given}: {type(cause).__name__}: {reason}"
    ) from cause


def _candidates(
    architecture: str, options: Mapping[str, Any], spec: PermutationSpec | None
) -> Iterator[Probe]:
    """Yield what is worth trying, the network as it is with inputs of its own size last."""
    module = networks.build(architecture, options, seed=0)
    shapes = checkpoints.shapes(module)
    own: Inputs | None = networks.example_inputs(module)
    if own is not None:
        yield Probe(module, own, shapes)
        return
    shape = networks.input_shape(module, options)
    for smaller in _smaller(module, shape, networks.least_edge(module, options)):
        for fit in _fit_for(module, architecture, options, smaller):
            if _binds(spec, shapes, checkpoints.shapes(fit)):
                yield Probe(fit, _examples(smaller), shapes)
    if checkpoints.shapes(module) != shapes:
        module = networks.build(architecture, options, seed=0)
    yield Probe(module, _examples(shape), shapes)


def _binds(
    spec: PermutationSpec | None, shapes: Mapping[str, Shape], smaller: Mapping[str, Shape]
) -> bool:
    """Tell whether a spec for a network of `shapes` has one for the network of other shapes."""
    if spec is not None and smaller != shapes:
        try:
            spec.bind(shapes).bind_resized(smaller)
        except PermutationSpecError:
            return False
    return True


def _smaller(module: nn.Module, shape: Shape, least: int | None) -> Iterator[Shape]:
    """Yield smaller shapes than `shape`, that of an example, from `least` on, if that is known."""
    channels, *lengths = shape
    if len(lengths) == 2:
        start, step = (max(_EDGE, least), 32) if least is not None else (_EDGE, _EDGE)
        edges = {*range(start, max(lengths), step)}
        if hasattr(module, "patch_embed"):
            edges |= {*range(_PATCHES, max(lengths), _PATCHES)}
        for edge in sorted(edge for edge in edges if edge >= start):
            yield (channels, *(min(edge, length) for length in lengths))


def _fit_for(
    module: nn.Module, architecture: str, options: Mapping[str, Any], shape: Shape
) -> Iterator[nn.Module]:
    """Yield the network as it may take examples of `shape`.

    That is `module`, told of another size in place if it can be, or left as it is; then one that
    is built for that size.
    """
    resize: Any = getattr(module, "set_input_size", None)
    with suppress(Exception):  # it cannot be
        if resize is not None:
            resize(shape[1:])
        yield module
    if resize is None and not networks.is_function(architecture):
        with suppress(Exception):  # it has no such option
            yield networks.build(architecture, {**options, "img_size": shape[1:]}, seed=0)


def _examples(shape: Shape) -> torch.Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


def _described(inputs: Inputs) -> str:
    if isinstance(inputs, torch.Tensor):
        return f"inputs of shape {tuple(inputs.shape)}"
    return "its example_inputs"


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
