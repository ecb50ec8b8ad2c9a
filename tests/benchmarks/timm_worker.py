"""The worker of `timm_table`: derives, writes, reads back and verifies one spec after another.

    python -m tests.benchmarks.timm_worker RESULTS GIBIBYTES

`timm_jobs` says what it is told and what it answers. Each step answers with its part of the record:

    parameters                                          of the network
    derived:  seconds, unruled, groups, outermost, factors, coverage, lines, peak_mib, still,
              fixed
    verified: seconds, difference, training_difference, training, controls, weakest, members
    failure:  stage, kind, reason                       the step that failed ends the job
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mergekit_perm import networks
from mergekit_perm.axis_text import format_axis
from mergekit_perm.derive import derivation, verify
from mergekit_perm.files import write_text
from mergekit_perm.groups import Groups
from mergekit_perm.permspec import PermutationSpec
from tests.benchmarks.timm_jobs import Record, Results, engine, memory
from tests.benchmarks.timm_rendering import causes

_THREADS = 1

Shapes = dict[str, tuple[int, ...]]


class ReadBackError(Exception):
    """The YAML does not say what was derived."""


def parts(order: Record, results: Results) -> Iterator[Record]:
    """Yield the parts of one record, each as soon as it is known."""
    architecture = order["architecture"]
    if order["derive"]:
        yield {"stage": "build"}
        shapes = _parameters(architecture)
        yield {"parameters": sum(map(_count, shapes.values())), "stage": "derive"}
        began = time.perf_counter()
        found = derivation(architecture, {})
        seconds = {**found.seconds, "all": time.perf_counter() - began}
        yield {"stage": "read back"}
        text = found.spec.dumps()
        write_text(results.spec_path(architecture), text)
        compare(found.spec, PermutationSpec.loads(text))
        yield {
            "derived": {"seconds": seconds, "unruled": dict(found.unruled)}
            | described(found.spec, text, shapes)
        }
        del found
    if order["verify"]:
        yield {"stage": "verify"}
        yield {"verified": proven(PermutationSpec.load(results.spec_path(architecture)))}


def compare(spec: PermutationSpec, again: PermutationSpec) -> None:
    """Check that `again`, read back from YAML, permutes as the bound `spec` does.

    Raises:
        ReadBackError: naming the first group or tensor in which they differ.
    """
    bound = again.bind(spec.shapes or {})
    for wanted, found in (
        (dict(spec.groups), dict(bound.groups)),
        (_texts(spec), _texts(bound)),
    ):
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                raise ReadBackError(f"{name}: {wanted.get(name)} became {found.get(name)}")


def described(spec: PermutationSpec, text: str, shapes: Shapes) -> Record:
    """Return what the table says about a derived spec, whose YAML is `text`."""
    lines = text.splitlines()
    fixed = lines.index("fixed:") + 1 if "fixed:" in lines else len(lines)
    return {
        "groups": len(spec.groups),
        "outermost": len(spec.groups.top()),
        "factors": sum(_blocks(spec.groups, name) for name in spec.groups),
        "coverage": spec.coverage(shapes),
        "lines": len(lines),
        "peak_mib": memory(os.getpid(), "VmHWM"),
        "still": still(spec, shapes),
        "fixed": [line.strip() for line in lines[fixed:]],
    }


def still(spec: PermutationSpec, shapes: Shapes) -> dict[str, float]:
    """Return the share of parameter elements that nothing moves, by cause, the largest first."""
    total = sum(map(_count, shapes.values()))
    shares: dict[str, float] = {}
    for name, shape in shapes.items():
        unmoved = (1.0 - spec.coverage({name: shape})) * _count(shape) / total
        if unmoved > 0:
            cause = causes(str(spec.fixed.get(name, "no reason given")))
            shares[cause] = shares.get(cause, 0.0) + unmoved
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


def proven(spec: PermutationSpec) -> Record:
    """Return what the table says about the proof of `spec`."""
    proof = verify(spec)
    weakest = min(proof.controls, key=lambda g: proof.controls[g], default=None)
    return {
        "seconds": proof.seconds,
        "difference": proof.difference,
        "training_difference": getattr(proof, "training_difference", None),
        "training": getattr(proof, "training", ""),
        "controls": len(proof.controls),
        "weakest": None if weakest is None else [weakest, proof.controls[weakest]],
        "members": proof.members,
    }


def _blocks(groups: Groups, name: str) -> int:
    """Return how many permutations of its own a group stands for: one in each block it is in."""
    within = groups[name].within
    return 1 if within is None else groups.length(within)


def _parameters(architecture: str) -> Shapes:
    module = networks.skeleton(architecture, {})
    return {name: tuple(value.shape) for name, value in module.named_parameters()}


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _texts(spec: PermutationSpec) -> dict[str, list[str]]:
    return {name: [format_axis(axis) for axis in row] for name, row in spec.axes.items()}


def failure(stage: str, error: BaseException) -> Record:
    """Return the part of the record that says what went wrong."""
    reason = f"{type(error).__name__}: {error}"
    short = isinstance(error, MemoryError) or "can't allocate memory" in reason
    place = traceback.extract_tb(error.__traceback__)[-1]
    if type(error).__module__ == "builtins":
        reason += f" ({Path(place.filename).name}:{place.lineno})"
    return {"stage": stage, "kind": "memory" if short else "error", "reason": reason}


def serve(results: Results, say: Any) -> None:
    """Do the jobs that come in, until no more do."""
    for line in sys.stdin:
        _reset_peak()
        stage = "start"
        try:
            for part in parts(json.loads(line), results):
                stage = part.get("stage", stage)
                say(part)
        except Exception as error:
            say({"failure": failure(stage, error)})
        gc.collect()
        say({"done": True})


def _reset_peak() -> None:
    with suppress(OSError):  # Linux alone has it; elsewhere no peak is reported
        Path("/proc/self/clear_refs").write_text("5")


def _versions() -> Record:
    return {
        "engine": engine(),
        "torch": torch.__version__.partition("+")[0],
        "timm": version("timm"),
        "threads": torch.get_num_threads(),
    }


def main(folder: Path, gibibytes: float) -> None:
    """Limit this process, warm up, and serve; what libraries print goes to the error stream."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(gibibytes * 2**30),) * 2)
    torch.set_num_threads(_THREADS)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(part: Record) -> None:
        answers.write(json.dumps(part) + "\n")
        answers.flush()

    with suppress(Exception):  # the first trace loads much of torch
        derivation("mlp", {})
    say({"versions": _versions()})
    serve(Results(folder), say)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
