"""Running a spec: every stage that is not done yet, then the report."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mergekit_perm import spec as run_specs
from mergekit_perm.checkpoints.hashes import content_sha256
from mergekit_perm.errors import PermMergeError, RunError, SpecError
from mergekit_perm.files import write_text
from mergekit_perm.pipeline import assemble
from mergekit_perm.pipeline.folder import SPEC, RunFolder
from mergekit_perm.pipeline.inputs import gather
from mergekit_perm.pipeline.plan import default_folder, list_stages
from mergekit_perm.pipeline.stage import Stage
from mergekit_perm.pipeline.stages import timed
from mergekit_perm.pipeline.workshop import Workshop
from mergekit_perm.progress import Progress, silent
from mergekit_perm.report import Report
from mergekit_perm.spec import RunSpec


def run(
    spec: RunSpec | str | Path,
    *,
    out: str | Path | None = None,
    device: str | None = None,
    force: bool = False,
    trust_permutations: bool = False,
    progress: Progress = silent,
) -> Report:
    """Run `spec`: train or read, align, merge, evaluate; write everything to a folder.

    Stages that an earlier run in the same folder finished with the same content are not redone.

    Args:
        spec: a run spec, or the path of one.
        out: the run's folder; ``out/NAME`` by default.
        device: used instead of the one in the spec.
        force: redo everything, and take over a folder that belongs to another spec.
        trust_permutations: do not prove the permutation spec; the report says so.
        progress: told what is going on.

    Returns:
        The report, as it was written to report.json.

    Raises:
        SpecError: the spec has problems.
        PermMergeError: an input is missing or a stage failed; what was finished stays.
    """
    loaded = spec if isinstance(spec, RunSpec) else run_specs.load(spec)
    if loaded.sweep is not None:
        raise SpecError(
            f"'{loaded.name}' is a sweep of several runs: run it with perm-merge sweep, or one of "
            "it with --set sweep=null and an --out of its own"
        )
    folder = RunFolder(Path(out) if out is not None else default_folder(loaded))
    folder.claim(loaded.name, force=force)
    results: dict[str, dict[str, Any]] = {}
    shop = Workshop(
        inputs=gather(loaded, device=device, use_cache=not force),
        folder=folder,
        progress=progress,
        use_cache=not force,
        trust_permutations=trust_permutations,
        results=results,
    )
    stages = list_stages(shop.inputs)
    with _explaining_full_disk(folder, results):
        if force:  # before the first stage: some measure points of those that come after them
            for stage in stages:
                folder.forget_points(stage.name)
        write_text(folder.path / SPEC, run_specs.resolved(loaded))
        for stage in stages:
            results[stage.name] = _result(stage, shop)
        folder.remove_leftovers({stage.name for stage in stages})
        _check_unchanged(stages, folder)
        report = assemble.report(shop.inputs, results, folder)
        report.save(folder.path / "report.json")
        _write_page(report, folder)
    return report


def _check_unchanged(stages: Iterable[Stage], folder: RunFolder) -> None:
    """Check that files which the run only links to are still those that it has read."""
    for stage in stages:
        for file in stage.files:
            path = folder.path / file
            if path.is_symlink() and folder.sha256(stage.name, file) != content_sha256(path):
                raise RunError(
                    f"{path.resolve()}: was changed while the run was using it, so that its "
                    "results are of no use; run again"
                )


def _write_page(report: Report, folder: RunFolder) -> None:
    # What draws figures takes a second to load, which plans have no use for.
    from mergekit_perm.report.html import save_html

    save_html(report, folder.path / "report.html")


def _result(stage: Stage, shop: Workshop) -> dict[str, Any]:
    """Return the result of `stage`, from its record where it is done."""
    # A proof made with --trust-permspec is none, so that stage's record counts for itself only.
    key = f"{stage.key}-trusted" if _is_trusted(stage, shop) else stage.key
    known = shop.done(stage.name, key)
    if known is not None:
        return known
    try:
        result, seconds = timed(stage.work, shop)
    except PermMergeError as error:
        raise _in_stage(stage, error) from error
    result = {**result, "seconds": seconds, "notes": shop.take_notes()}
    shop.folder.finish(stage.name, key, result, stage.files)
    return result


def _is_trusted(stage: Stage, shop: Workshop) -> bool:
    return stage.name == "permutations" and shop.trust_permutations


def _in_stage(stage: Stage, error: PermMergeError) -> PermMergeError:
    """Return `error` with the stage it happened in, of the same type and exit code."""
    return type(error)(f"{stage.name}: {error}")


@contextmanager
def _explaining_full_disk(folder: RunFolder, results: Mapping[str, Any]) -> Iterator[None]:
    """Turn an OSError into a RunError that says what is kept and what to do."""
    try:
        yield
    except OSError as error:
        kept = f"{len(results)} finished stages are kept"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"{folder.path}: cannot write: no space is left on the device; {kept}, so make "
                "room and run again to go on"
            ) from error
        raise RunError(f"{folder.path}: {error}; {kept}, run again to go on") from error
