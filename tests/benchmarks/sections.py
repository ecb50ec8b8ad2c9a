"""The sections of RESULTS.md: what each says of a benchmark's figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.stats

Rows = list[dict[str, Any]]

MEASURES = {
    "train simplex": "Simplex, training loss",
    "test simplex": "Simplex, test loss",
    "train far edge": "Far edge, training loss",
    "test far edge": "Far edge, test loss",
}


@dataclass(frozen=True, slots=True)
class Section:
    """What the page says of one benchmark.

    Attributes:
        text: makes it of the rows.
        called: what a row is called, by its columns, in the manner of `str.format`.
    """

    text: Callable[[Rows], str]
    called: str


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def interval(values: Sequence[float]) -> str:
    """Return the mean and half the width of its 95 % t-interval."""
    array = np.asarray(values)
    if len(array) < 2:
        return f"{array.mean():.3f}"
    half = scipy.stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / len(array) ** 0.5
    return f"{array.mean():.3f} ± {half:.3f}"


def _barriers(rows: Rows) -> str:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    text = [
        "## Three networks: barriers by method\n",
        "Three networks per seed set; the loss barrier is the highest excess over the networks' "
        "own losses, in nats: on the far edge (the pair without the first network, 25 points) and "
        "on the simplex (28 points). MLPs without calibration, ResNets with BatchNorm estimated "
        "again. Mean over seed sets (how many, where fewer) and half the width of the 95 % "
        "t-interval. "
        "`pytest -m bench tests/benchmarks/test_solver_barriers.py`\n",
        *_other_networks(rows),
        _asked(rows),
    ]
    for measure, title in MEASURES.items():
        body = []
        for kind in kinds:
            cells, sets = [], len({row["set"] for row in rows if row["kind"] == kind})
            for method in methods:
                values = [
                    row[measure] for row in rows if (row["kind"], row["method"]) == (kind, method)
                ]
                fewer = f" ({len(values)})" * (0 < len(values) < sets)
                cells.append((interval(values) if values else "-") + fewer)
            body.append([f"{kind} ({sets} sets)", *cells])
        text.append(f"### {title}\n\n" + table(["network", *methods], body))
    seconds = [[kind, *(_mean_seconds(rows, kind, method) for method in methods)] for kind in kinds]
    text.append("### Seconds of alignment\n\n" + table(["network", *methods], seconds))
    return "\n".join(text)


def _asked(rows: Rows) -> str:
    """Return how far the default is below other methods, beside how far it was asked to be."""
    default, to_one = "mixed (default)", "weight matching to a reference"
    by_activations = "activation matching to a reference"
    mlp, resnet = "MLP, depth 4, width {}".format, "ResNet-8, width {}".format
    asked = [(mlp(w), mlp(w), to_one, 0.3) for w in (32, 64, 128)]
    asked += [(resnet(w), resnet(w), to_one, 0.2) for w in (16, 32)]
    asked += [(resnet(w), resnet(w), by_activations, 0.7) for w in (16, 32)]
    asked += [(mlp(w // 4), mlp(w), to_one, 1.0) for w in (64, 128, 256)]
    means = {
        (kind, method, measure): np.mean([
            row[measure] for row in rows if (row["kind"], row["method"]) == (kind, method)
        ])
        for kind, method in {(r["kind"], r["method"]) for r in rows}
        for measure in MEASURES
    }  # fmt: skip
    body = []
    for ours, theirs, method, most in asked:
        cells = []
        for measure in MEASURES:
            ratio = means[ours, default, measure] / means[theirs, method, measure]
            cells.append(f"{ratio:.2f}" + " (missed)" * bool(ratio > most))
        body.append([ours, f"{method}, {theirs}", f"{most:g}", *cells])
    return (
        "### What was asked of the default\n\n"
        "Its mean barrier as a share of another method's. It chooses by the loss on training "
        "examples.\n\n"
        + table(["default on", "another method", "at most", *MEASURES.values()], body)
    )


def _other_networks(rows: Rows) -> list[str]:
    """Say where methods were not shown the same networks, as their fingerprints tell."""
    notes = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        seen: dict[tuple[int, str], list[str]] = {}
        for row in rows:
            if row["kind"] == kind:
                seen.setdefault((row["set"], row.get("networks", "")), []).append(row["method"])
        numbers = [number for number, _ in seen]
        apart = {
            method
            for (number, networks), methods in seen.items()
            if networks and numbers.count(number) > 1
            for method in methods
        }
        if apart:
            notes.append(
                f"{kind}: {', '.join(sorted(apart))} had other networks than the other methods. "
                "Training from a seed gives other ones on another CPU.\n"
            )
    return notes


def _mean_seconds(rows: Rows, kind: str, method: str) -> str:
    values = [r["seconds"] for r in rows if (r["kind"], r["method"]) == (kind, method)]
    return f"{np.mean(values):.2f}" if values else "-"


def _speed(rows: Rows, mark: str = "bench", where: str = "") -> str:
    body = []
    for correlation, order in dict.fromkeys((r["correlation"], r["order"]) for r in rows):
        same = [r for r in rows if (r["correlation"], r["order"]) == (correlation, order)]
        for search in dict.fromkeys(r["search"] for r in same):
            own = [r for r in same if r["search"] == search]
            seconds, base = (sum(r["seconds"] for r in each) for each in (own, same[::2]))
            body.append([
                f"{correlation:g}", order, search, interval([r["objective"] for r in own]),
                interval([r["seconds"] for r in own]), f"{base / seconds:.2f}",
            ])  # fmt: skip
    head = ["correlation", "order of visits", "search", "objective", "s", "times as fast"]
    return (
        f"## A pair of ResNet-50{where}: weight matching against the textbook loop\n\n"
        "One process, equal threads, means and 95 % t-intervals over seeds, which decide random "
        "orders. The loop (tests/benchmarks/textbook.py) visits groups in the same order, and "
        "computes every similarity anew each time. "
        f"`pytest -m {mark} tests/benchmarks/test_pair_speed.py`\n\n" + table(head, body)
    )


def _objectives(rows: Rows) -> str:
    text = [
        "## Five networks: objective of joint weight matching and of Frank-Wolfe\n",
        "F is the sum of all pairwise inner products of the weights. "
        "`pytest -m bench tests/benchmarks/test_joint_objective.py`\n",
    ]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of_kind = [row for row in rows if row["kind"] == kind]
        body = [
            [str(r["set"]), f"{r['matching']:.2f}", f"{r['frank_wolfe']:.2f}",
             f"{r['matching seconds']:.2f}", f"{r['frank_wolfe seconds']:.2f}",
             f"{r['frank_wolfe seconds'] / r['matching seconds']:.1f}"]
            for r in of_kind
        ]  # fmt: skip
        higher = sum(r["matching"] >= r["frank_wolfe"] for r in of_kind)
        head = ["seed set", "F, weight_matching", "F, frank_wolfe", "s", "s", "times as fast"]
        text.append(
            f"### {kind}\n\nAt least as high in {higher} of {len(of_kind)} sets.\n\n"
            + table(head, body)
        )
    return "\n".join(text)


def _planted(rows: Rows) -> str:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    noises = sorted({row["noise"] for row in rows})
    specs = list(dict.fromkeys(row["architecture"] for row in rows))
    head = ["network", *(f"{m}, noise {n:g}" for m in methods for n in noises)]
    found = {(r["architecture"], r["method"], r["noise"]): r for r in rows}
    body = []
    for name in specs:
        cells = []
        for method in methods:
            for noise in noises:
                row = found.get((name, method, noise))
                cells.append("-" if row is None else _recovered(row))
        body.append([name, *cells])
    return (
        "## Planted permutations\n\n"
        "A network against a permuted copy of itself, with normal noise of so many times each "
        "tensor's own standard deviation: how many groups come back exactly, and in how many "
        "seconds; *higher* where the objective is above that of the planted permutation, which is "
        "then no longer the best. `pytest -m bench tests/benchmarks/test_planted.py`\n\n"
        + table(head, body)
    )


def _recovered(row: Mapping[str, Any]) -> str:
    text = "all" if row["recovered"] == row["groups"] else f"{row['recovered']}/{row['groups']}"
    text += ", higher" * row["above"] + f", {row['starts']} starts" * (row["starts"] > 1)
    return f"{text}, {row['seconds']:.1f} s"


def _scaling(rows: Rows) -> str:
    body = [
        [r["method"], str(r["networks"]), f"{r['seconds']:.2f}", f"{r['mib']:.0f}",
         f"{r['seconds'] / r['networks']:.3f}", f"{r['mib'] / r['networks']:.1f}"]
        for r in rows
    ]  # fmt: skip
    head = ["method", "networks", "seconds", "peak MiB", "seconds per network", "MiB per network"]
    return (
        "## More networks\n\nTime and peak memory on top of the networks themselves. From 4 to 32 "
        f"they grow as powers of the number of networks: {_powers(rows)}. "
        "`pytest -m bench tests/benchmarks/test_scaling.py`\n\n" + table(head, body)
    )


def _powers(rows: Rows) -> str:
    """Return by method with which power of the number of networks time and memory grow."""
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        several = [row for row in rows if row["method"] == method and row["networks"] > 2]
        counts = np.log([row["networks"] for row in several])
        time, memory = (
            np.polyfit(counts, np.log([row[key] for row in several]), 1)[0]
            for key in ("seconds", "mib")
        )
        found.append(f"{method} {time:.2f} in time and {memory:.2f} in memory")
    return ", ".join(found)


def _quarter_width(rows: Rows) -> str:
    columns = ("wide", "default", "searched")
    body = [[str(r["set"]), *(f"{r[key]:.3f}" for key in columns)] for r in rows]
    body.append(["all", *(interval([r[key] for r in rows]) for key in columns)])
    head = ["seed set", "width 64, weight matching to a reference", "width 16, mixed (default)",
            "width 16, mixed with 32 starts and 4,000 exchanges"]  # fmt: skip
    seconds = np.mean([r["seconds"] for r in rows])
    return (
        "## A quarter of the width, with far more search\n\n"
        "Training loss barriers on the simplex of three MLPs of depth 4, in nats. The default at "
        "width 16 is above matching to a reference at width 64; what sixteen times the starts and "
        f"eight times the exchanges make of it ({seconds:.0f} s a set). "
        "`pytest -m bench tests/benchmarks/test_solver_barriers.py -k quarter`\n\n"
        + table(head, body)
    )


def _evaluation(rows: Rows, mark: str = "bench", where: str = "") -> str:
    body = []
    for r in rows:
        bare = min(r["plain"], r["channels last"])
        body.append([
            r["network"], r["data"], str(r["threads"]), f"{r['engine']:.2f}", f"{bare:.2f}",
            f"{r['usual']:.2f}", f"{r['engine'] / bare:.2f}", f"{r['usual'] / r['engine']:.2f}",
            *([f"{r['products']:.2f}", f"{r['usual'] / r['products']:.2f}"] if "products" in r
              else ["-", "-"]),
        ])  # fmt: skip
    head = ["network", "data", "threads", "engine, s", "bare passes, s", "usual loop, s",
            "engine / bare", "usual / engine", "products, s", "usual / products"]  # fmt: skip
    return (
        f"## Pairs at 25 points on two splits{where}\n\n"
        "Bare passes: as many batches of the same size through one network that stays as it is, in "
        "inference mode and the better layout. The usual loop loads every mix into the network and "
        "makes a DataLoader for every split. Products: what as many operations take in plain "
        "matrix products of 2048 x 2048, about the least that passes can. Best of three each, in "
        f"one process. `pytest -m {mark} tests/benchmarks/test_evaluation_speed.py`\n\n"
        + table(head, body)
        + "".join(f"\n{_ways(r)}\n" for r in rows if mark == "gpu")
    )


def _ways(row: dict[str, Any]) -> str:
    text = f"{row['network']}, {row['data']}: {row['way']}"
    if "compiled" in row:
        text += f"; compiled {row['compiled']:.2f} s, after {row['compiling']:.0f} s of compiling"
    return f"{text}."


def _memory(rows: Rows) -> str:
    body = [[f"{r['parameters'] / 1e6:.0f} M", f"{r['copies']:.2f}"] for r in rows]
    return (
        "## Memory of evaluating a pair\n\nHow many copies of one network's weights a pair takes "
        "at its peak, the networks themselves among them. "
        "`pytest -m bench tests/benchmarks/test_evaluation_speed.py`\n\n"
        + table(["parameters", "copies"], body)
    )


def _merging(rows: Rows) -> str:
    lines = [
        [
            row["method"] + ("" if row["density"] is None else f", density {row['density']:g}"),
            f"{row['first seconds']:.1f}", f"{row['seconds']:.1f}",
            f"{row['mergekit seconds']:.1f}", f"{row['ratio']:.2f}", f"{row['MiB']:.0f}",
            f"{row['mergekit MiB']:.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    first = rows[0]
    head = [
        "recipe", "first run, s", "later, s", "mergekit, s", "ratio", "MiB of its own", "mergekit",
    ]  # fmt: skip
    return (
        f"## {first['networks']} checkpoints of ResNet-50 merged, and by mergekit\n\n"
        f"`pytest -m bench tests/benchmarks/test_merge_speed.py`: `perm-merge merge` without "
        f"alignment and `mergekit-pytorch` on the same files of {first['MiB each']:.0f} MiB, "
        "imports counted; what the first run with an architecture takes, which builds a network, "
        "the least of the rounds that follow, the median of their ratios, and the most "
        f"memory that is no part of a file.\n\n{table(head, lines)}"
    )


_MERGED = (
    "best network", "mean network", "ensemble", "naive mean", "naive mean, repaired",
    "matched mean, repaired", "aligned mean", "aligned mean, closed form", "aligned mean, repaired",
)  # fmt: skip


def _merged_accuracy(rows: Rows) -> str:
    lines = [
        [f"{row['architecture']}, {row['norm']}", *(f"{100 * (1 - row[n]):.1f}" for n in _MERGED)]
        for row in rows
    ]
    return (
        "## Five networks on digits_hard, merged\n\n"
        "`pytest -m bench tests/benchmarks/test_merged_accuracy.py`: accuracy on the test split in "
        "percent; ResNet-8 and VGG-11 of width 16, 12 epochs on 3,000 images. Networks are aligned "
        "to one another by the default method (`matched`: by activation matching); `repaired` is "
        "`calibrate: repair`, written into the merged network; `closed form` is REPAIR without a "
        "pass of the mixture (tests/benchmarks/closed_form.py).\n\n"
        + table(["networks", *_MERGED], lines)
    )


def _run_memory(rows: Rows) -> str:
    bound = "interpreter MiB", "result and three tensors MiB"
    lines = [
        [
            row["case"], f"{row['MiB']:.0f}", f"{row['planned MiB']:.0f}",
            f"{sum(row[part] for part in bound):.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    head = ["networks", "measured", "planned", "interpreter, result and three tensors"]
    return (
        "## Memory of runs\n\n`pytest -m bench tests/benchmarks/test_run_memory.py`: ResNet-50, "
        "98 MiB each; the most memory of a run that is no part of a file, in MiB; what "
        "`perm-merge plan` says; and what the interpreter takes with all that runs load, the "
        f"merged network and three of its largest tensors.\n\n{table(head, lines)}"
    )


_SEARCH = "{search} at correlation {correlation:g}, {order} order"

SECTIONS: Mapping[str, Section] = {
    "barriers": Section(_barriers, "{method}"),
    "quarter_width": Section(_quarter_width, "seed set {set}"),
    "pair_speed": Section(_speed, _SEARCH),
    "pair_speed_gpu": Section(partial(_speed, mark="gpu", where=" on an accelerator"), _SEARCH),
    "joint_objective": Section(_objectives, "{kind}"),
    "planted": Section(_planted, "{architecture}"),
    "scaling": Section(_scaling, "{method}"),
    "evaluation": Section(_evaluation, "{network} on {data} with threads: {threads}"),
    "evaluation_gpu": Section(
        partial(_evaluation, mark="gpu", where=" on an accelerator"), "{network} on {data}"
    ),
    "evaluation_memory": Section(_memory, "{parameters} parameters"),
    "merge_speed": Section(_merging, "{method}"),
    "merged_accuracy": Section(_merged_accuracy, "{architecture} with {norm}"),
    "run_memory": Section(_run_memory, "{case}"),
}
