"""Data sets of torchvision that are already on disk; nothing is ever downloaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from torch.utils.data import Subset

from mergekit_perm.data import image_sets
from mergekit_perm.data.images import Decoded, Pictures
from mergekit_perm.data.requests import Request
from mergekit_perm.data.splits import Data
from mergekit_perm.data.stable_split import stable_split
from mergekit_perm.errors import DataError, suggest

# Given by this module, never by options.
_OURS = frozenset({"download", "loader", "root", "target_transform", "transform"})
_TEST_SHARE = 5


def load(request: Request) -> Data:
    """Return a classification data set of torchvision, read from `root`.

    Sets with a `train` argument have the splits train and test. Sets with a `split` argument have
    the splits that torchvision names; ``test`` falls back to ``val``. Sets with neither (EuroSAT,
    FakeData) are split here: one example in five is for testing, always the same ones, every class
    in proportion.

    Options: those of `image_sets`, and the set's own (EMNIST's ``split``).

    Raises:
        DataError: for a set that is unknown, not on disk, damaged, or not one of classification.
    """
    make = _class(request)
    parameters = _parameters(make)
    by = "train" if "train" in parameters else "split"
    own = parameters - _OURS - {by} - set(image_sets.OPTIONS)
    request.check_options(own | set(image_sets.OPTIONS))
    if "root" in parameters and request.root is None:
        raise request.error("needs `root`, the folder that torchvision keeps it in")
    arguments: dict[str, Any] = {k: v for k, v in request.options.items() if k in own}
    if "root" in parameters:
        arguments["root"] = request.root
    if "train" in parameters:
        open_split = _by_flag(make, arguments, request)
    elif "split" in parameters:
        open_split = _by_name(make, arguments, request)
    else:
        open_split = _by_share(make, arguments, request)
    return image_sets.load(request, open_split=open_split, num_classes=_num_classes, resize=False)


Open = Callable[[str], Pictures]


def _by_flag(make: Any, arguments: dict[str, Any], request: Request) -> Open:
    def open_split(name: str) -> Pictures:
        _check_name(name, request)
        return _made(make, {**arguments, "train": name == "train"}, request)

    return open_split


def _by_name(make: Any, arguments: dict[str, Any], request: Request) -> Open:
    def open_split(name: str) -> Pictures:
        reasons = []
        for candidate in (name, "val") if name == "test" else (name,):
            try:
                return _made(make, {**arguments, "split": candidate}, request)
            except DataError as error:
                if "argument split" not in str(error):  # torchvision's word for an unknown split
                    raise
                reasons.append(str(error.__cause__))
        raise request.error(f"no split '{name}': {reasons[0]}")

    return open_split


def _by_share(make: Any, arguments: dict[str, Any], request: Request) -> Open:
    @cache
    def parts() -> dict[str, Pictures]:
        pictures = _made(make, arguments, request)
        listed = image_sets.labels_of(pictures)
        decoded = Decoded(pictures, "", None)
        labels = listed or [decoded.picture(index)[1] for index in range(len(pictures))]
        train, test = stable_split(labels, len(labels) // _TEST_SHARE)
        return {"train": _Part(pictures, train), "test": _Part(pictures, test)}

    def open_split(name: str) -> Pictures:
        _check_name(name, request)
        return parts()[name]

    return open_split


class _Part(Subset[Any]):
    """Some examples of a data set, with what is known of them."""

    @property
    def targets(self) -> list[int] | None:
        labels = image_sets.labels_of(self.dataset)
        return None if labels is None else [labels[index] for index in self.indices]

    @property
    def samples(self) -> list[Any] | None:
        samples = getattr(self.dataset, "samples", None)
        return None if samples is None else [samples[index] for index in self.indices]


def _class(request: Request) -> Any:
    from torchvision import datasets

    known = [name for name in datasets.__all__ if inspect.isclass(getattr(datasets, name, None))]
    if request.name not in known:
        raise request.error(
            f"torchvision has no data set of that name{suggest(request.name, known)}"
        )
    return getattr(datasets, request.name)


def _parameters(made: Any) -> set[str]:
    """Return the arguments of a class, those it passes on to its bases included."""
    names: set[str] = set()
    for base in made.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names.update(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return names - {"self"}


def _made(make: Any, arguments: dict[str, Any], request: Request) -> Pictures:
    try:
        return make(**arguments)
    except (TypeError, ValueError) as cause:
        raise request.error(str(cause)) from cause
    except Exception as cause:
        reason = " ".join(str(cause).split())
        raise request.error(
            f"cannot be read from {request.root} ({reason}); nothing is downloaded here. Get it "
            f"once with `torchvision.datasets.{request.name}('{request.root}', download=True)`"
        ) from cause


def _check_name(name: str, request: Request) -> None:
    if name not in ("train", "test"):
        raise request.error(
            f"no split '{name}'{suggest(name, ['train', 'test'])}; it has train, test"
        )


def _num_classes(pictures: Pictures) -> int | None:
    whole = pictures.dataset if isinstance(pictures, _Part) else pictures
    classes = getattr(whole, "classes", None)
    if classes is not None:
        return len(classes)
    count: int | None = getattr(whole, "num_classes", None)
    return count
