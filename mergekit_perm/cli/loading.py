"""Loading the run spec that a command is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergekit_perm.cli.shared import spec_file

if TYPE_CHECKING:
    from mergekit_perm.spec import RunSpec


def load(text: str, overrides: list[str] | None) -> RunSpec:
    """Load the run spec that `text` names: a file, stdin, or one that is shipped."""
    return load_all(text, overrides)[0]


def load_all(text: str, overrides: list[str] | None) -> tuple[RunSpec, int]:
    """Load a run spec, and return how many runs it stands for: that of a sweep several."""
    from mergekit_perm import spec
    from mergekit_perm.spec.load import read

    content, file, folder = read(spec_file(text))
    given = overrides or ()
    loaded = spec.loads(content, file=file, folder=folder, overrides=given)
    if loaded.sweep is None:
        return loaded, 1
    swept = spec.loads_sweep(content, file=file, folder=folder, overrides=given)
    return loaded, len(swept.variations)
