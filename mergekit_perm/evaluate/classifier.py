"""The last layer of a network, found by trial: scaling it scales the logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate.affine import alike, calls_of, kept, rescale
from mergekit_perm.evaluate.metrics import evaluating

# How far scaled logits may be from the old ones times the factor, as a share of the largest.
_ROUNDING = 1e-4


def find_classifier(module: nn.Module, inputs: torch.Tensor) -> tuple[str, ...]:
    """Return the names of the layers that make the logits; none where they are not found.

    They are what the network itself calls its classifier (``get_classifier()`` of timm, which
    gives two layers where there are two heads), or the last layer with a weight matrix, if scaling
    weight and bias scales the logits; else the last layer of which that holds.

    Args:
        module: the network; its weights stay as they are.
        inputs: a few examples, on its device.
    """
    with evaluating(module), torch.no_grad():
        called, logits = calls_of(module, inputs)
        for chosen in _candidates(module, [name for name in called if _is_matrix(module, name)]):
            layers = [module.get_submodule(name) for name in chosen]
            with kept(*layers):
                if _scales(module, layers, inputs, logits, 2.0):
                    return chosen
    return ()


def scale_logits(module: nn.Module, inputs: torch.Tensor, factor: float) -> None:
    """Multiply the logits of `module` by `factor`, in the weight and bias of its last layer.

    Args:
        module: the network, changed in place.
        inputs: examples to prove it with, on its device.
        factor: what to multiply by.

    Raises:
        EvaluationError: there is no such layer, or the logits on `inputs` are not the old ones
            times the factor.
    """
    layers = [module.get_submodule(name) for name in find_classifier(module, inputs)]
    with evaluating(module), torch.no_grad():
        if layers and _scales(module, layers, inputs, module(inputs), factor):
            return
    raise EvaluationError(
        f"the temperature cannot be taken into the weights: no layer of {type(module).__name__} "
        "scales the logits when its weight and bias are scaled; calibrate without temperature"
    )


def _scales(
    module: nn.Module,
    layers: Sequence[nn.Module],
    inputs: torch.Tensor,
    logits: torch.Tensor,
    factor: float,
) -> bool:
    """Scale `layers`; tell whether that scales the `logits`."""
    for layer in layers:
        rescale(layer, torch.tensor(factor))
    return alike(logits * factor, module(inputs), rounding=_ROUNDING)


def _candidates(module: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield layers that may be the classifier, likely ones first; `names` in order of calls."""
    ask = getattr(module, "get_classifier", None)
    own = ask() if callable(ask) else ()
    heads = own if isinstance(own, tuple | list) else [own]
    inside = {id(part) for head in heads if isinstance(head, nn.Module) for part in head.modules()}
    chosen = tuple(name for name in names if id(module.get_submodule(name)) in inside)
    if chosen:
        yield chosen
    yield from ((name,) for name in reversed(names))


def _is_matrix(module: nn.Module, name: str) -> bool:
    weight = module.get_submodule(name)._parameters["weight"]
    return weight is not None and weight.ndim > 1
