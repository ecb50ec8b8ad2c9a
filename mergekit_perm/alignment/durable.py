"""An alignment: one permutation per group, and the permutation spec they belong to."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mergekit_perm import checkpoints
from mergekit_perm.alignment.moves import Moves, Tensors
from mergekit_perm.alignment.optimizers import permute_optimizer
from mergekit_perm.axes import Axis, Fixed
from mergekit_perm.axis_text import format_axis
from mergekit_perm.errors import CheckpointError, PermutationSpecError
from mergekit_perm.groups import Group
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Permutation

FORMAT = "perm-merge/permutations@1"


@dataclass(frozen=True, slots=True)
class Alignment:
    """One permutation per group, for one network; it acts on all that has the network's names.

    `p @ q` acts as p first and then q, as permutations do: `(p @ q).apply(x)` is
    `q.apply(p.apply(x))`.

    Attributes:
        permutations: every group of the spec with its whole permutation, nested groups included.
        spec: the permutation spec; bound or not.
        network: the network that was aligned, for people.
        reference: what it was aligned to, for people.

    Raises:
        PermutationSpecError: the permutations are no member of the spec's group.
    """

    permutations: Mapping[str, Permutation]
    spec: PermutationSpec
    network: str | None = None
    reference: str | None = None

    def __post_init__(self) -> None:
        self.spec.check_permutations(self.permutations)
        ordered = {group: self.permutations[group] for group in self.spec.groups}
        object.__setattr__(self, "permutations", ordered)

    # ------------------------------------------------------------------------- reading, writing

    def save(self, path: str | Path) -> str:
        """Write a safetensors file that needs no other to be used; return its SHA-256.

        It holds one int64 tensor per group, `p[i]` being the source of target i, and in its
        header the permutation spec as YAML.
        """
        # Reasons and proofs are for people, who find them in the spec's own file.
        text = replace(self.spec, shapes=None, fixed={}, proof={}).dumps()
        header = {
            "format": FORMAT,
            "permspec": text,
            "permspec_sha256": PermutationSpec.loads(text).sha256,
            "sha256": self.sha256,
            "network": self.network,
            "reference": self.reference,
        }
        return checkpoints.save(
            path,
            {name: torch.from_numpy(p.indices.copy()) for name, p in self.permutations.items()},
            metadata={key: value for key, value in header.items() if value is not None},
        )

    @classmethod
    def load(cls, path: str | Path, spec: PermutationSpec | None = None) -> Alignment:
        """Read what `save` wrote, or a file of permutations alone.

        Args:
            path: a safetensors file with one tensor of whole numbers per group.
            spec: used instead of the spec in the file. A file without one, as older runs wrote
                it, belongs to the ``permspec.yaml`` of the run's folder that it lies in.

        Raises:
            CheckpointError: the file cannot be read, or holds no permutations.
            PermutationSpecError: there is no spec, or the permutations are of another one.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise CheckpointError(
                f"{path}: not a file of permutations by its name; expected one that ends in "
                ".safetensors, such as permutations/NAME.safetensors in the folder of a run"
            )
        tensors, header = checkpoints.load_state(path), checkpoints.load_metadata(path)
        permutations = {name: _permutation(t, name, path) for name, t in tensors.items()}
        spec = spec or _spec_of(path, header)
        try:
            return cls(permutations, spec, header.get("network"), header.get("reference"))
        except PermutationSpecError as error:
            raise PermutationSpecError(
                f"{path}: {error}; give the permutation spec it was made with (--permspec FILE)"
            ) from error

    @property
    def sha256(self) -> str:
        """A hash of the permutations by group, whatever they are applied to."""
        digest = hashlib.sha256()
        for name, permutation in sorted(self.permutations.items()):
            digest.update(f"{len(name)}:{name} {len(permutation)};".encode())
            digest.update(permutation.indices.astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def moved(self) -> int:
        """How many groups do not stay as they are; 0 for the identity."""
        return sum(permutation.moved > 0 for permutation in self.permutations.values())

    @property
    def fixed(self) -> float:
        """The share of all units that stay where they are."""
        units = sum(map(len, self.permutations.values()))
        moved = sum(permutation.moved for permutation in self.permutations.values())
        return 1 - moved / units if units else 1.0

    # ---------------------------------------------------------------------------------- algebra

    def inverse(self) -> Alignment:
        """Return the alignment that undoes this one."""
        permutations = {name: p.inverse() for name, p in self.permutations.items()}
        return Alignment(permutations, self.spec, self.reference, self.network)

    def __matmul__(self, then: Alignment) -> Alignment:
        _check_same(self.spec, then.spec)
        permutations = {name: p @ then.permutations[name] for name, p in self.permutations.items()}
        # Of two specs that say the same, the one that names every tensor says more.
        spec = then.spec if _has_patterns(self.spec) else self.spec
        return Alignment(permutations, spec, self.network, then.reference)

    # ----------------------------------------------------------------------------------- acting

    def moves(self) -> Moves:
        """Return what permutes tensors, one collection after another."""
        return Moves(self.spec, {name: p.indices for name, p in self.permutations.items()})

    def apply(self, state: Mapping[str, torch.Tensor]) -> Tensors:
        """Return `state` permuted: new tensors of the same names, shapes and dtypes.

        Args:
            state: a state dict, a copy averaged during training, a pruning mask; all tensors of
                the spec or some. `weight_orig` and `weight_mask` move as `weight`; tensors that
                are not in the spec are copied.

        Raises:
            PermutationSpecError: no tensor is in the spec, or one has another shape than it says.
        """
        result, count = self.moves().state(state)
        if not count.found:
            raise PermutationSpecError(nothing_found(state, self.spec))
        return {n: t.clone(memory_format=torch.contiguous_format) for n, t in result.items()}

    def apply_to_optimizer(
        self, state: Mapping[str, Any], names: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Return the state dict of an optimizer permuted: momenta and moments as their parameters.

        Args:
            state: what `optimizer.state_dict()` gives.
            names: the parameters in the order in which the optimizer got them, of all its groups
                one after another: `[name for name, _ in network.named_parameters()]` for
                `SGD(network.parameters())`. Not needed for an optimizer that was itself given
                `network.named_parameters()`.

        Raises:
            CheckpointError: the names are not as many as the parameters, or the state of one is
                of another form than the parameter itself, as Adafactor's rows and columns are.
        """
        # Optimizers keep the tensors they load and change them in place, counts of steps as well.
        return copy.deepcopy(permute_optimizer(state, names, self.moves())[0])


def nothing_found(names: Collection[str], spec: PermutationSpec) -> str:
    """Say that no tensor of `names` is one of `spec`."""
    theirs, ours = next(iter(names), "no tensor"), next(iter(spec.axes), "no tensor")
    return (
        f"none of its {len(names)} tensors is in the permutation spec of "
        f"{spec.architecture or 'this architecture'}: it has '{theirs}', the spec '{ours}'"
    )


def _permutation(tensor: torch.Tensor, group: str, path: Path) -> Permutation:
    try:
        return Permutation(tensor.numpy())
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: group '{group}': {error}; expected a file of permutations, such as "
            "permutations/NAME.safetensors in the folder of a run"
        ) from error


def _spec_of(path: Path, header: Mapping[str, str]) -> PermutationSpec:
    """Return the spec that the file at `path` belongs to."""
    tag = header.get("format", "")
    if tag.startswith("perm-merge/") and tag != FORMAT:
        raise CheckpointError(
            f"{path}: is in the format {tag}, expected {FORMAT}; is it of a newer perm-merge?"
        )
    if "permspec" in header:
        spec = PermutationSpec.loads(header["permspec"], file=f"{path} (permspec)")
        if spec.sha256 != header.get("permspec_sha256"):
            raise CheckpointError(
                f"{path}: the permutation spec in it is not the one it was saved with; copy the "
                "file again, or give the spec (--permspec FILE)"
            )
        return spec
    beside = path.absolute().parent.parent / "permspec.yaml"
    if beside.is_file():
        return PermutationSpec.load(beside)
    raise PermutationSpecError(
        f"{path}: has no permutation spec in it, and there is no {beside}; give the spec it was "
        "made with (--permspec FILE)"
    )


def _has_patterns(spec: PermutationSpec) -> bool:
    return any("*" in name for name in spec.axes)


def _check_same(first: PermutationSpec, second: PermutationSpec) -> None:
    """Raise PermutationSpecError unless what both specs say of groups and tensors is the same."""
    ours, theirs = dict(first.groups), dict(second.groups)
    different = [
        f"group '{name}' is {_group(ours.get(name))} and {_group(theirs.get(name))}"
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    ]
    if not (_has_patterns(first) or _has_patterns(second)):
        different += [
            f"{name} is {_row(first, name)} and {_row(second, name)}"
            for name in {**first.axes, **second.axes}
            if not _agree(first.axes.get(name), second.axes.get(name))
        ]
    if different:
        raise PermutationSpecError(
            "alignments of different permutation specs cannot be composed: "
            + "; ".join(different[:3])
            + (f" (+{len(different) - 3} more)" if len(different) > 3 else "")
        )


def _agree(first: Sequence[Axis] | None, second: Sequence[Axis] | None) -> bool:
    if first is None or second is None or len(first) != len(second):
        return False
    return all(
        a == b or (Fixed(None) in (a, b) and isinstance(a, Fixed) and isinstance(b, Fixed))
        for a, b in zip(first, second, strict=True)
    )


def _group(group: Group | None) -> str:
    if group is None:
        return "missing"
    return f"{group.size}" + (f" within '{group.within}'" if group.within else "")


def _row(spec: PermutationSpec, name: str) -> str:
    row = spec.axes.get(name)
    return "fixed" if row is None else f"[{', '.join(map(format_axis, row))}]"
