"""Where the YAML files of specs/ are: inside an installed wheel, or at the root of a checkout."""

from __future__ import annotations

from pathlib import Path

from mergekit_perm.errors import RunError

_PACKAGE = Path(__file__).parent
_FOLDERS = (_PACKAGE / "specs", _PACKAGE.parent / "specs")


def specs_folder() -> Path:
    """Return the folder that holds the shipped run specs and `architectures/`.

    Raises:
        RunError: the installation has no such folder.
    """
    for folder in _FOLDERS:
        if (folder / "architectures").is_dir():
            return folder
    raise RunError(f"{_FOLDERS[0]}: the shipped specs are missing; install perm-merge again")


def run_specs() -> dict[str, Path]:
    """Return the shipped run specs by name, as `perm-merge run NAME` accepts them."""
    return {path.stem: path for path in sorted(specs_folder().glob("*.yaml"))}


def architecture_specs() -> dict[str, Path]:
    """Return the shipped permutation specs by `file_name` of their architectures."""
    return {path.stem: path for path in sorted((specs_folder() / "architectures").glob("*.yaml"))}


def file_name(architecture: str) -> str:
    """Return what the spec of an architecture is called there, without ending.

    That is the architecture, with a dot for the colon of ``package.module:function``.
    """
    return architecture.replace(":", ".")
