"""Names for networks that are given by their files alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

from mergekit_perm.spec.alignment import JOINT

ENDINGS = (".safetensors", ".pth.tar", ".pth", ".pt", ".bin", ".ckpt")
"""How files of weights end."""

# Files that are called so in every folder, so that the folder is what tells them apart.
_EVERYWHERE = re.compile(r"(pytorch_|open_clip_)?model|(model_)?best|last|weights|checkpoint")


def network_names(references: Sequence[str]) -> list[str]:
    """Return a name for each of `references`, all different, also where case does not count.

    That of the file without its ending or of the repository; of the folder too where that is what
    differs. Dots become dashes, so that names can stand in `--set`.

    Args:
        references: to checkpoints, as a run spec takes them.
    """
    parts = [_parts(reference) for reference in references]
    short = [own if not _EVERYWHERE.fullmatch(own) else above or own for above, own in parts]
    alike = _folded(short)
    full = [
        "-".join(filter(None, both)) if alike.count(name.lower()) > 1 else name
        for name, both in zip(short, parts, strict=True)
    ]
    names: list[str] = []
    for name in full:
        names.append(_free(name, [*_folded(names), JOINT]))
    return names


def _folded(names: Sequence[str]) -> list[str]:
    return [name.lower() for name in names]


def _parts(reference: str) -> tuple[str, str]:
    """Return the last folder of `reference`, and its file or repository without an ending."""
    scheme, _, rest = reference.partition(":")
    path = reference if scheme not in ("hf-hub", "hf_hub", "local-dir") else rest
    pure = PurePath(path.partition("@")[0] if path != reference else path)
    own = next((pure.name.removesuffix(e) for e in ENDINGS if pure.name.endswith(e)), pure.name)
    return _clean(pure.parent.name), _clean(own) or "network"


def _clean(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-_")


def _free(name: str, taken: Sequence[str]) -> str:
    """Return `name`, with a number behind it if it is taken."""
    free, count = name, 1
    while free.lower() in taken:
        count += 1
        free = f"{name}-{count}"
    return free
