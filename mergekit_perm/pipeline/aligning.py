"""What the stages of alignment do: prove the permutation spec, find permutations, apply them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from mergekit_perm import align, derive
from mergekit_perm.alignment import Alignment, applied
from mergekit_perm.errors import RunError
from mergekit_perm.files import write_text
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.pipeline.workshop import (
    Result,
    State,
    Workshop,
    aligned_file,
    checkpoint_file,
    network_file,
    permutation_file,
)
from mergekit_perm.spec.sequences import end_of


def prove_permutations(shop: Workshop) -> Result:
    """Write the permutation spec that is used, and prove it unless it is proven or trusted."""
    inputs = shop.inputs
    found = inputs.permutations
    if found is None:
        raise RunError("nothing is aligned, so there is no permutation spec to prove")
    write_text(shop.folder.path / "permspec.yaml", found.text)
    result = {"source": found.source, "sha256": found.spec.sha256}
    if shop.trust_permutations:
        known = inputs.outline
        shapes = {name: known.shapes[name] for name in known.parameters}
        return {**result, "verified": False, "coverage": found.spec.coverage(shapes)}
    proof = derive.proven(
        found.spec,
        inputs.architecture,
        inputs.options,
        partial(derive.probe, inputs.architecture, inputs.options, found.spec),
        code=inputs.outline.code,
        force=not shop.use_cache,
        progress=shop.progress,
    )
    return {**result, "verified": True, "coverage": proof.coverage, "difference": proof.difference}


def align_networks(steps: Sequence[str], shop: Workshop) -> Result:
    """Align all networks to the one reference; write their permutations and permuted weights.

    Args:
        steps: at which checkpoints of sequences permutations are found; none is the end.
        shop: where to work.
    """
    spec, found = shop.inputs.spec, find_permutations(steps, shop)
    if steps:
        found = align.moved_along(found, shop.family("naive"), permutation_spec(shop))
    assert isinstance(found, align.Family)
    alignments = keep_permutations(found.permutations, found, permutation_file, shop)
    for name, alignment in alignments.items():
        shop.write(aligned_file(name), found.states[name], **applied(alignment))
        if spec.align is not None and spec.align.apply_to == "sequence":
            own = spec.steps_of(name)
            for step in own:
                if step != end_of(own):
                    state = alignment.apply(shop.read(checkpoint_file(spec, name, step)))
                    shop.write(aligned_file(f"{name}@{step}"), state, **applied(alignment))
    groups = [
        {
            "name": name,
            "size": effect.size,
            "moved": effect.moved,
            "objective": {"before": effect.objective_before, "after": effect.objective},
            "similarity": {"before": effect.similarity_before, "after": effect.similarity},
        }
        for name, effect in found.groups.items()
    ]
    objective = {
        "before": found.objective_before,
        "after": found.objective,
        "traces": found.traces,
    }
    return {
        "objective": objective,
        "groups": groups,
        "saw": found.saw,
        "cut_off": found.cut_off,
    }


def find_permutations(steps: Sequence[str], shop: Workshop) -> align.Family | align.Sequences:
    """Return the alignment of the networks at `steps` of their sequences; none is the end.

    Several are stacked: one permutation is found for all.
    """
    settings = shop.inputs.spec.align
    if settings is None:
        raise RunError("the spec has no `align` section")
    if len(steps) > 1:
        checkpoints_of = [shop.checkpoints_of(step) for step in steps]
        sequences = {name: [each[name] for each in checkpoints_of] for name in checkpoints_of[0]}
        return align.align_sequences(
            sequences,
            permutation_spec(shop),
            reference=settings.reference,
            device=str(shop.inputs.device),
            progress=shop.progress,
            **settings.options,
        )
    networks = shop.checkpoints_of(steps[0]) if steps else shop.family("naive")
    return match(networks, settings.reference, shop)


def match_pair(one: str, other: str, shop: Workshop) -> align.Family:
    """Return the alignment of network `one` to network `other`, of these two alone."""
    pair = {name: shop.read(network_file(name)) for name in (other, one)}
    return match(pair, other, shop)


def match(states: Mapping[str, State], reference: str, shop: Workshop) -> align.Family:
    """Return the alignment of networks, as the spec aligns its own."""
    settings = shop.inputs.spec.align
    if settings is None:
        raise RunError("the spec has no `align` section")
    data = shop.inputs.data if shop.inputs.spec.looks_at != "weights" else None
    return align.align(
        states,
        permutation_spec(shop),
        reference=reference,
        method=settings.method,
        model=None if data is None else shop.module(),
        data=data,
        device=str(shop.inputs.device),
        progress=shop.progress,
        **settings.options,
    )


def keep_permutations(
    names: Iterable[str],
    found: align.Family | align.Sequences,
    file: Callable[[str], str],
    shop: Workshop,
) -> dict[str, Alignment]:
    """Write the permutations of networks `names` to `file` of each name, and return them."""
    spec = permutation_spec(shop)
    spec = replace(spec, architecture=shop.inputs.architecture, options=shop.inputs.options)
    alignments = {
        name: Alignment(found.permutations[name], spec, name, reference=found.reference)
        for name in names
    }
    for name, alignment in alignments.items():
        alignment.save(shop.folder.path / file(name))
    return alignments


def permutation_spec(shop: Workshop) -> PermutationSpec:
    """Return the permutation spec of the run."""
    found = shop.inputs.permutations
    if found is None:
        raise RunError("nothing is aligned, so there is no permutation spec")
    return found.spec
