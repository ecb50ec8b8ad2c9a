"""Objects named as `package.module:name`, for architectures and data sets of the user's own."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mergekit_perm.errors import PermMergeError, suggest

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_python_path(text: str) -> bool:
    """Return whether `text` has the form `package.module:name`."""
    return _PATH.fullmatch(text) is not None


def find(path: str, *, error: type[PermMergeError]) -> Any:
    """Import the module of `package.module:name` and return the object `name`.

    Args:
        path: the module and the name in it.
        error: the class to raise when there is no such object.

    Raises:
        error: naming the module or the name that is missing, or what the import raised.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as cause:
        if cause.name is None or not f"{module_name}.".startswith(f"{cause.name}."):
            raise error(f"'{path}': importing '{module_name}' failed: {cause}") from cause
        raise error(
            f"'{path}': there is no module '{cause.name}'; install it, go to the folder that "
            "holds it, or put that folder on PYTHONPATH"
        ) from cause
    except Exception as cause:
        raise error(
            f"'{path}': importing '{module_name}' raised {type(cause).__name__}: {cause}"
        ) from cause
    if not hasattr(module, name):
        hint = suggest(name, vars(module))
        raise error(f"'{path}': module '{module_name}' has no '{name}'{hint}")
    return getattr(module, name)


def code_sha256(modules: Iterable[str]) -> str:
    """Return a hash of the source files of imported `modules`, so that a change of them shows.

    What those files import in turn is not looked at.
    """
    digest = hashlib.sha256()
    for name in sorted(set(modules)):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None and Path(file).is_file():
            digest.update(Path(file).read_bytes())
    return digest.hexdigest()
