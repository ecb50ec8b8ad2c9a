"""Data sets from a Python function of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mergekit_perm.data import fingerprints
from mergekit_perm.data.requests import Request
from mergekit_perm.data.splits import Data, InMemory, Split
from mergekit_perm.errors import DataError, suggest
from mergekit_perm.python_path import find


def load(request: Request) -> Data:
    """Return what ``package.module:function(root=..., **options)`` returns.

    The function returns `Data`, or data sets by the name of their split. These yield
    (tensor, class); the number of classes is their attribute `num_classes`, or the number of
    their `classes`, or follows from the labels of a `TensorDataset`.

    Raises:
        DataError: when there is no such function, it fails, or returns something else.
    """
    function = find(request.source, error=DataError)
    root = None if request.root is None else str(request.root)
    try:
        made = function(root=root, **request.options)
    except DataError:
        raise
    except Exception as cause:
        raise request.error(f"raised {type(cause).__name__}: {cause}") from cause
    if isinstance(made, Data):
        splits = {name: _split(made.splits, name, request) for name in request.splits}
        return Data(
            name=request.source,
            splits=splits,
            num_classes=made.num_classes,
            input_shape=made.input_shape,
            fingerprint=made.fingerprint,
        )
    if not isinstance(made, Mapping):
        raise request.error(f"returned {type(made).__name__}, not Data or data sets by split name")
    return _from_datasets(made, request)


def _split(made: Mapping[str, Any], name: str, request: Request) -> Any:
    if name not in made:
        raise request.error(f"no split '{name}'{suggest(name, made)}; it has {', '.join(made)}")
    return made[name]


def _from_datasets(made: Mapping[str, Any], request: Request) -> Data:
    about = (request.source, sorted(request.options.items()))
    splits = {}
    for name in request.splits:
        dataset = _split(made, name, request)
        _check(dataset, name, request)
        kept = Split(name, dataset).dataset
        fingerprint = fingerprints.of_dataset(kept, about=about)
        splits[name] = Split(name, kept, fingerprint=fingerprint)
    return Data(
        name=request.source,
        splits=splits,
        num_classes=max(_num_classes(made[n], s, request) for n, s in splits.items()),
        input_shape=splits[request.splits[0]].input_shape,
        fingerprint=fingerprints.combined((s.name, s.fingerprint) for s in splits.values()),
    )


def _check(dataset: Any, name: str, request: Request) -> None:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise request.error(
            f"split '{name}' is {type(dataset).__name__}, which has no length and no items"
        )
    if not len(dataset):
        raise request.error(f"split '{name}' has no examples")
    example = dataset[0]
    if not (
        isinstance(example, tuple | list)
        and len(example) == 2
        and isinstance(example[0], torch.Tensor)
    ):
        raise request.error(
            f"split '{name}' yields {type(example).__name__}, not (tensor of one example, class)"
        )


def _num_classes(dataset: Any, split: Split, request: Request) -> int:
    if isinstance(getattr(dataset, "num_classes", None), int):
        return int(dataset.num_classes)
    if getattr(dataset, "classes", None) is not None:
        return len(dataset.classes)
    if isinstance(split.dataset, InMemory):
        return int(split.dataset.labels.max()) + 1
    raise request.error(
        f"split '{split.name}' does not say how many classes there are; give its data set an "
        "attribute `num_classes`"
    )
