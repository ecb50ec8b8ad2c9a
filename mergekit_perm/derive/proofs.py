"""Proofs kept by content, so that a spec is verified once per network and not once per run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from mergekit_perm import networks
from mergekit_perm.cache import cache_folder
from mergekit_perm.derive.probe import Probe
from mergekit_perm.derive.verify import TOLERANCE, Proof, verify
from mergekit_perm.files import write_text
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.progress import Progress, silent

# Raise when `verify` becomes stricter, so that older proofs no longer count.
_VERSION = 2


def proven(
    spec: PermutationSpec,
    architecture: str,
    options: Mapping[str, Any],
    build: Callable[[], Probe],
    *,
    code: str = "",
    force: bool = False,
    progress: Progress = silent,
) -> Proof:
    """Return the proof of bound `spec` for `architecture`, verifying it if that was not done yet.

    Args:
        spec: a bound spec.
        architecture: what `networks.build` builds, with `options`.
        build: called only when there is no proof yet; returns a fresh network and its inputs.
        code: a hash of the architecture's code, where its name does not stand for it.
        force: verify even if that was done already.

    Raises:
        PermutationSpecError: as `verify`; a spec that fails is not remembered.
    """
    path = proof_path(spec, architecture, options, code=code)
    known = None if force else _read(path)
    if known is not None:
        return known
    fresh = build()
    proof = verify(spec, fresh.module, fresh.inputs, shapes=fresh.shapes, progress=progress)
    with suppress(OSError):  # a cache that cannot be written costs time, not the proof
        write_text(path, json.dumps(asdict(proof), indent=1))
    return proof


def is_proven(
    spec: PermutationSpec, architecture: str, options: Mapping[str, Any], *, code: str = ""
) -> bool:
    """Tell whether bound `spec` has been verified for `architecture` with `options`."""
    return _read(proof_path(spec, architecture, options, code=code)) is not None


def record_of(spec: PermutationSpec, proof: Proof) -> dict[str, Any]:
    """Return what a spec's file keeps of its proof: date, figures, inputs, versions, of what."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "coverage": round(proof.coverage, 6),
        "difference": float(f"{proof.difference:.1e}"),
        "inputs": proof.inputs,
        "torch": torch.__version__.partition("+")[0],
        "timm": networks.VERSION,
        "sha256": spec.sha256,
    }


def proof_path(
    spec: PermutationSpec, architecture: str, options: Mapping[str, Any], *, code: str = ""
) -> Path:
    """Return where the proof is kept: it holds for these groups, shapes, options and code."""
    content = [
        _VERSION,
        TOLERANCE,
        spec.sha256,
        architecture,
        options,
        code,
        sorted((spec.shapes or {}).items()),
        torch.__version__,
    ]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    return cache_folder("proofs") / f"{digest}.json"


def _read(path: Path) -> Proof | None:
    try:
        return Proof(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # no proof, or one that cannot be read: verify again
