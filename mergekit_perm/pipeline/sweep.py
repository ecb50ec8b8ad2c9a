"""A sweep: its runs one beside another, each in a folder of its own, and what they say together."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from mergekit_perm.errors import PermMergeError, RunError
from mergekit_perm.files import write_text
from mergekit_perm.pipeline.run import run
from mergekit_perm.progress import Progress, silent
from mergekit_perm.report import Comparison
from mergekit_perm.report.claims import Claim, Finding, Height, findings
from mergekit_perm.report.compare import compare_groups
from mergekit_perm.report.sweeps import SweepFolder, SweptRun, load_sweep_folder, save_sweep
from mergekit_perm.spec import Sweep, resolved
from mergekit_perm.spec.sweep_models import HeightSpec
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
        jobs: how many runs at once, each with its share of the CPU's threads. Networks that are
            trained with another number of threads are others, so another number of jobs trains
            them again. By default as many as cores, and one where there is an accelerator.
        force: redo everything.
        progress: told how many runs are done; of a single job also what its run tells.

    Raises:
        RunError: the folder is another's; or every run failed, the first of them as it says.
    """
    runs = {variation: _swept_run(out, sweep, variation) for variation in sweep.variations}
    folder = SweepFolder(sweep.spec.name, tuple(runs.values()), tuple(claims_of(sweep)))
    _claim_folder(out, sweep.spec.name, force=force)
    save_sweep(out, folder)
    write_text(out / "spec.yaml", resolved(sweep.spec))
    failed: dict[str, str] = {}
    task = f"runs of {sweep.spec.name}"
    progress(task, 0, len(runs))
    results = _results(sweep, runs, device, jobs or _jobs(sweep, device), force, progress)
    for done, (name, error) in enumerate(results, start=1):
        if error is not None:
            failed[name] = error
        progress(task, done, len(runs), f"{len(failed)} failed" if failed else "")
    if len(failed) == len(runs):
        name, error = next(iter(failed.items()))
        raise RunError(f"all {len(runs)} runs failed; the first, {name}: {error}")
    groups = folder.done()
    # What a claim is about may be among the runs that failed.
    found = [] if failed else findings(folder.claims, groups)
    return Swept(compare_groups(groups), found, failed)


def claims_of(sweep: Sweep) -> list[Claim]:
    """Return the claims of a sweep."""
    found = []
    for claim in sweep.spec.sweep.claims if sweep.spec.sweep else ():
        bound = claim.at_least if claim.at_most is None else claim.at_most
        assert bound is not None
        found.append(
            Claim(
                claim.text,
                _height(claim.value),
                claim.at_most is not None,
                bound.times,
                None if bound.of is None else _height(bound.of),
                bound.run,
                claim.metric,
                claim.split,
                claim.calibration,
                claim.runs,
            )
        )
    return found


def _height(height: HeightSpec) -> Height:
    return Height(
        height.figure, height.alignment, height.found_at or (), height.applied_at or ()
    )  # fmt: skip


def _swept_run(out: Path, sweep: Sweep, variation: Variation) -> SweptRun:
    spec = sweep.spec_of(variation)
    sha256 = hashlib.sha256(resolved(spec).encode()).hexdigest()
    values = {field: json.loads(value) for field, value in variation.values}
    return SweptRun(out / "runs" / spec.name, variation.label, sha256, values)


def _claim_folder(out: Path, name: str, *, force: bool) -> None:
    """Make sure that `out` is new, empty, or the folder of this sweep."""
    known = load_sweep_folder(out)
    empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if force or empty or (known is not None and known.name == name):
        return
    what = "is no folder of a sweep" if known is None else f"belongs to the sweep '{known.name}'"
    raise RunError(f"{out}: {what}; choose another folder with --out, or overwrite with --force")


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _jobs(sweep: Sweep, device: str | None) -> int:
    """Return how many runs go at once: one where they would share an accelerator."""
    import torch

    chosen = device or (sweep.spec.evaluate.device if sweep.spec.evaluate else "auto")
    on_cpu = chosen == "cpu" or (chosen == "auto" and not torch.accelerator.is_available())
    return _cores() if on_cpu else 1


def _results(
    sweep: Sweep,
    runs: dict[Variation, SweptRun],
    device: str | None,
    jobs: int,
    force: bool,
    progress: Progress,
) -> Iterator[tuple[str, str | None]]:
    """Yield the name of every run as it ends, and why it failed, if it did."""
    if jobs == 1:
        for variation, each in runs.items():
            yield each.folder.name, _run_one(sweep, variation, each.folder, device, force, progress)
        return
    threads = max(1, _cores() // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(jobs, len(runs)),
        mp_context=context,
        initializer=_prepare,
        initargs=(threads, sys.path),
    ) as pool:
        waiting: dict[Future[str | None], str] = {
            pool.submit(_run_one, sweep, variation, each.folder, device, force): each.folder.name
            for variation, each in runs.items()
        }
        try:
            for ended in as_completed(waiting):
                yield waiting[ended], _result(ended)
        finally:
            pool.shutdown(cancel_futures=True)


def _result(ended: Future[str | None]) -> str | None:
    """Return why a run failed; one whose process is gone cannot say it itself."""
    error = ended.exception()
    return ended.result() if error is None else f"{type(error).__name__}: {error}"


def _prepare(threads: int, path: list[str]) -> None:
    """Make a process ready: its share of threads, and where the user's own modules are."""
    import torch

    torch.set_num_threads(threads)
    sys.path[:] = path
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: nobody else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


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
    except Exception as error:  # of a network of the user's own, or a device: the others go on
        return f"{type(error).__name__}: {error}"
    return None
