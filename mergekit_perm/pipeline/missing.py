"""Tensors that a network lacks, or has in another shape: what stands for them in merged networks.

Zeros stand in for them from where the network is read: alignment compares nothing with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from mergekit_perm.errors import RunError
from mergekit_perm.spec import RunSpec
from mergekit_perm.spec.sequences import split_name
from mergekit_perm.weighted import weighted_sum

Results = Mapping[str, Mapping[str, Any]]


def absent_tensors(name: str, results: Results) -> list[str]:
    """Return the tensors that network `name` lacks, from the results of the stages."""
    network, _ = split_name(name)
    return list(results.get(f"networks/{network}", {}).get("absent", ()))


def settled(
    tensor: str,
    merged: torch.Tensor,
    family: Mapping[str, Mapping[str, torch.Tensor]],
    names: Sequence[str],
    absent: Mapping[str, Sequence[str]],
    spec: RunSpec,
) -> torch.Tensor | None:
    """Return what stands for a tensor in a merged network; None where it is left out.

    Args:
        tensor: its name.
        merged: what the recipe has made of it.
        family: all networks of the run and those that are merged, as they are merged.
        names: of those that are merged.
        absent: by network the tensors that it lacks.
        spec: says what becomes of them.

    Raises:
        RunError: the network whose tensor is kept lacks it, or no network has it.
    """
    rule = spec.about_missing(tensor)
    if rule is None:
        return merged
    if rule.network is not None:
        if tensor in absent[rule.network]:
            raise RunError(f"'{tensor}' is kept from '{rule.network}', which lacks it")
        return family[rule.network][tensor].clone()
    owners = [name for name in names if tensor not in absent[name]]
    if len(owners) == len(names):
        return merged
    if rule.policy == "intersection":
        return None
    if not owners:
        raise RunError(f"no network that is merged has '{tensor}'")
    return weighted_sum([family[name][tensor] for name in owners], [1 / len(owners)] * len(owners))


def notes(spec: RunSpec, results: Results) -> Iterator[str]:
    """Yield what a reader should know of tensors that networks lack."""
    for name in spec.networks:
        lacking = absent_tensors(name, results)
        if lacking:
            shown = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" * (len(lacking) > 3))
            yield (
                f"Network {name} lacks {shown}, or has another shape of it: zeros stand in for it "
                "where the network itself is measured."
            )
