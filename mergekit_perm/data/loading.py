"""From the name of a source to its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_perm.data import digits, digits_hard, folders, functions, torchvision_sets
from mergekit_perm.data.requests import Request
from mergekit_perm.data.splits import Data
from mergekit_perm.errors import DataError, suggest
from mergekit_perm.preprocessing import Preprocessing
from mergekit_perm.python_path import is_python_path

_NAMED = {"digits": digits.load, "digits_hard": digits_hard.load}
_PREFIXED = {"torchvision": torchvision_sets.load, "folder": folders.load}
_FORMS = "digits, digits_hard, torchvision:NAME, folder:PATH, package.module:function"


def load(
    source: str,
    *,
    root: str | Path | None = None,
    options: Mapping[str, Any] = {},
    preprocessing: Preprocessing | None = None,
    splits: Sequence[str] = ("train", "test"),
) -> Data:
    """Return a data set for classification.

    Args:
        source: ``digits`` (of scikit-learn), ``digits_hard`` (made from them, see
            `digits_hard`), ``torchvision:NAME`` (from `root`, never downloaded),
            ``folder:PATH`` (relative to `root`), or ``package.module:function``, which is called
            with `root` and the options.
        root: the folder where the data are.
        options: of the source. For pictures: ``size``, ``channels``, ``mean``, ``std``,
            ``crop_pct``, ``crop_mode``, ``interpolation``, ``workers``.
        preprocessing: what the network was made for; options go before it.
        splits: which splits are wanted.

    Raises:
        DataError: for a source or split that is unknown, missing, empty or damaged, and for
            options that the source does not have.
    """
    kind, colon, name = source.partition(":")
    request = Request(
        source=source,
        name=name,
        root=None if root is None else Path(root).expanduser(),
        options=dict(options),
        preprocessing=preprocessing,
        splits=tuple(dict.fromkeys(splits)),
    )
    if not request.splits:
        raise request.error("no split is asked for; ask for train, test or both")
    if source in _NAMED:
        return _NAMED[source](request)
    if colon and name and kind in _PREFIXED:
        return _PREFIXED[kind](request)
    if is_python_path(source):
        return functions.load(request)
    hint = suggest(kind, [*_NAMED, *_PREFIXED])
    raise DataError(f"unknown data source '{source}'{hint}; a source is one of {_FORMS}")
