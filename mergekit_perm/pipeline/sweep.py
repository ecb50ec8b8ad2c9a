"""A sweep: its runs one beside another, each in a folder of its own, and what they say together."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from mergekit_perm.errors import PermMergeError, RunError, SpecError
from mergekit_perm.files import write_text
from mergekit_perm.pipeline.run import run
from mergekit_perm.progress import Progress, silent
from mergekit_perm.report import Comparison, Report, compare
from mergekit_perm.report.claims import Claim, Finding, Height, findings
from mergekit_perm.report.sweeps import load_sweep_folder, save_sweep
from mergekit_perm.spec import RunSpec, Sweep, resolved
from mergekit_perm.spec.models import HeightSpec
from mergekit_perm.spec.sweeps import Variation


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found out.

    Attributes:
        comparison: of all runs that are done, those that differ by seeds averaged.
        findings: what they say about the claims of the sweep; none where a run failed.
        failed: by the name of the run, why it failed.
    """

    comparison: Comparison
    findings: list[Finding]
    failed: dict[str, str]


def run_sweep(
    sweep: Sweep,
    *,
    out: Path,
    device: str | None = None,
    jobs: int | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Swept:
    """Run all runs of `sweep` in folders of `out`, going on where they stopped.

    Args:
        sweep: what to run.
        out: the folder of the sweep.
        device: used instead of the one in the spec.
        jobs: how many runs at once, each with its share of the CPU's threads; all cores by default.
        force: redo everything.
        progress: told how many runs are done; of a single job also what its run tells.

    Raises:
        RunError: the folder is another's; or every run failed, the first of them as it says.
    """
    folders = {variation: _folder(out, sweep, variation) for variation in sweep.variations}
    claims = claims_of(sweep)
    _claim_folder(out, sweep.spec.name, force=force)
    save_sweep(out, sweep.spec.name, folders.values(), claims)
    write_text(out / "spec.yaml", resolved(sweep.spec))
    jobs = min(jobs or os.cpu_count() or 1, len(folders))
    failed: dict[str, str] = {}
    task = f"runs of {sweep.spec.name}"
    progress(task, 0, len(folders))
    for done, (folder, error) in enumerate(
        _results(sweep, folders, device, jobs, force, progress), 1
    ):
        if error is not None:
            failed[folder.name] = error
        progress(task, done, len(folders), f"{len(failed)} failed" if failed else "")
    if len(failed) == len(folders):
        name, error = next(iter(failed.items()))
        raise RunError(f"all {len(folders)} runs failed; the first, {name}: {error}")
    reports = [Report.load(folder) for folder in folders.values() if folder.name not in failed]
    # What a claim is about may be among the runs that failed.
    return Swept(compare(reports), [] if failed else findings(claims, reports), failed)


def _claim_folder(out: Path, name: str, *, force: bool) -> None:
    """Make sure that `out` is new, empty, or the folder of this sweep."""
    known = load_sweep_folder(out)
    empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if force or empty or (known is not None and known.name == name):
        return
    what = "is no folder of a sweep" if known is None else f"belongs to the sweep '{known.name}'"
    raise RunError(f"{out}: {what}; choose another folder with --out, or overwrite with --force")


def claims_of(sweep: Sweep) -> list[Claim]:
    """Return the claims of a sweep, their checkpoints by name."""
    spec = sweep.spec
    found = []
    for claim in spec.sweep.claims if spec.sweep else ():
        bound = claim.at_least if claim.at_most is None else claim.at_most
        assert bound is not None
        found.append(
            Claim(
                claim.text,
                _height(claim.value, spec),
                claim.at_most is not None,
                bound.times,
                None if bound.of is None else _height(bound.of, spec),
                bound.run,
                claim.metric,
                claim.split,
                claim.calibration,
                claim.runs,
            )
        )
    return found


def _height(height: HeightSpec, spec: RunSpec) -> Height:
    matrix = spec.evaluate.matrix if spec.evaluate else None
    if height.figure is not None or height.found_at is None or height.applied_at is None:
        return Height(height.figure, height.alignment)
    if matrix is None:
        raise SpecError("a claim is about checkpoints, and evaluate has no matrix")
    found = matrix.found_at if height.found_at == ("all",) else height.found_at
    applied = matrix.applied_at if height.applied_at == ("all",) else height.applied_at
    return Height(found_at=spec.chosen_steps(found), applied_at=spec.chosen_steps(applied))


def _folder(out: Path, sweep: Sweep, variation: Variation) -> Path:
    return out / "runs" / sweep.spec_of(variation).name


def _results(
    sweep: Sweep,
    folders: dict[Variation, Path],
    device: str | None,
    jobs: int,
    force: bool,
    progress: Progress,
) -> Iterator[tuple[Path, str | None]]:
    """Yield the folder of every run as it ends, and why it failed, if it did."""
    if jobs == 1:
        for variation, folder in folders.items():
            yield folder, _run_one(sweep, variation, folder, device, force, progress)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_prepare, initargs=(threads, sys.path)
    ) as pool:
        waiting: dict[Future[str | None], Path] = {
            pool.submit(_run_one, sweep, variation, folder, device, force): folder
            for variation, folder in folders.items()
        }
        try:
            for ended in as_completed(waiting):
                yield waiting[ended], ended.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare(threads: int, path: list[str]) -> None:
    """Make a process ready: its share of threads, and where the user's own modules are."""
    import torch

    torch.set_num_threads(threads)
    sys.path[:] = path


def _run_one(
    sweep: Sweep,
    variation: Variation,
    folder: Path,
    device: str | None,
    force: bool,
    progress: Progress = silent,
) -> str | None:
    """Run one variation, and return why it failed, if it did."""
    try:
        run(sweep.spec_of(variation), out=folder, device=device, force=force, progress=progress)
    except PermMergeError as error:
        return str(error)
    return None
