"""The table of `timm_table` as Markdown: the same results give the same text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from tests.benchmarks.timm_jobs import Record
from tests.benchmarks.timm_registry import Registry, families

Records = Mapping[str, Record]

# Coverage below which a network's reasons are listed in full.
_LOW = 0.99

# Shares of parameters under this are not worth a word.
_SHARE = 0.0005

_COLUMNS = (
    "family",
    "variant",
    "parameters",
    "groups",
    "coverage",
    "derive",
    "after tracing",
    "verify",
    "difference",
    "lines",
    "what stays fixed",
)

# The reason for a tensor is "axis 0: output of the network; axes 2, 3: kernel positions in conv2d
# (resnet.py:146)"; the causes in it are what remains without axes and places.
_PLACE = re.compile(r"^ax[ei]s \d+(?:, \d+)*:? |,? in (?:[\w.]+ )?\(?[\w.]+:\d+\)?$")
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/'\":]+/)+")


def table(records: Records, names: Registry) -> str:
    """Return the whole file."""
    smallest = families(names)
    shown = {name: records[name] for name in smallest.values() if name in records}
    sections = [
        _head(records, names),
        "## Families\n\nThe network with the fewest parameters of each of timm's "
        f"{len(smallest)} module families.",
        _summary(shown, len(smallest)),
        _rows(smallest, records),
        *_details(shown, "###"),
    ]
    registered = {name: record for name, record in records.items() if name in names}
    if registered.keys() - shown.keys():
        sections += ["## All names", _summary(registered, len(names))]
        sections += _lists(registered)
    return "\n\n".join(sections) + "\n"


def verdict(record: Record) -> str:
    """Return how a job went, in one line."""
    if "failure" in record:
        return _failure(record)
    derived, words = record["derived"], ["derived"]
    words.append(f"in {_seconds(derived['seconds']['all'])} s")
    words.append(f"({_seconds(derived['seconds']['solve'])} after tracing),")
    words.append(f"{_groups(record)} groups, coverage {_coverage(derived['coverage'])},")
    if "verified" not in record:
        return " ".join([*words, f"not verified: {record['skipped']}"])
    proof = record["verified"]
    words.append(f"verified in {_seconds(proof['seconds'])} s,")
    return " ".join([*words, f"difference {proof['difference']:.1e}"])


# ---------------------------------------------------------------------------------- the sections


def _head(records: Records, names: Registry) -> str:
    versions = [record["versions"] for record in records.values() if "versions" in record]
    days = sorted({record["measured"] for record in records.values()})
    threads = _several(v["threads"] for v in versions)
    engines = len({v["engine"] for v in versions})
    lines = [
        "# Permutation specs derived from timm",
        "",
        "Made by `python -m tests.benchmarks.timm_table`. Every network is traced and solved, its "
        "spec is",
        "written as YAML and read back, and what was read is proven in float64 with negative "
        "controls.",
        f"timm {_several(v['timm'] for v in versions)} has {len(names):,} names; torch "
        f"{_several(v['torch'] for v in versions)} on a CPU, {threads} "
        f"thread{'s' * (threads != '1')} in a process that has traced",
        f"before; measured {' to '.join(days[:1] + days[1:][-1:]) or 'never'}"
        + (f", with {engines} states of the code." if engines > 1 else "."),
        "",
        "Groups are given as outermost / all, where a nested group counts once for every block; "
        "coverage is",
        "the share of parameter elements with at least one permuted axis, rounded down; times are "
        "in seconds;",
        "the difference is that of the outputs under random members, over the largest output.",
    ]
    return "\n".join(lines)


def _summary(records: Records, count: int) -> str:
    derived = {n: r["derived"] for n, r in records.items() if "derived" in r}
    proofs = {n: r["verified"] for n, r in records.items() if "verified" in r}
    kinds = [record["failure"]["kind"] for record in records.values() if "failure" in record]
    skipped = [r for r in records.values() if "failure" not in r and "verified" not in r]
    rows = [
        ("derived", f"{len(derived):,} of {count:,}"),
        ("verified", f"{len(proofs):,}"),
        ("left unverified: not asked for, or too large", f"{len(skipped):,}"),
        ("failed", str(len(kinds) - kinds.count("time"))),
        ("took too long", str(kinds.count("time"))),
        ("not tried", f"{count - len(records):,}"),
        *_derived_rows(derived),
        *_proof_rows(proofs),
        *_peak_rows(records),
    ]
    return _markdown(["", ""], rows)


def _derived_rows(derived: Records) -> list[tuple[str, str]]:
    if not derived:
        return []
    coverages = [entry["coverage"] for entry in derived.values()]
    whole = {name: entry["seconds"]["all"] for name, entry in derived.items()}
    solve = {name: entry["seconds"]["solve"] for name, entry in derived.items()}
    share = sum(solve.values()) / max(sum(whole.values()), 1e-9)
    return [
        ("coverage of .99 / .999 and more", " / ".join(_at_least(coverages, (0.99, 0.999)))),
        ("lines of YAML", _spread({n: float(e["lines"]) for n, e in derived.items()})),
        ("seconds to derive", _spread(whole)),
        ("of which after tracing", _spread(solve)),
        ("share of all time after tracing", f"{100 * share:.0f} %"),
    ]


def _proof_rows(proofs: Records) -> list[tuple[str, str]]:
    if not proofs:
        return []
    worst = max(proofs, key=lambda name: proofs[name]["difference"])
    controls = {n: p["weakest"] for n, p in proofs.items() if p["weakest"]}
    rows = [
        ("seconds to verify", _spread({n: p["seconds"] for n, p in proofs.items()})),
        ("worst difference", f"{proofs[worst]['difference']:.1e} ({worst})"),
    ]
    trained = {
        n: p["training_difference"]
        for n, p in proofs.items()
        if p["training_difference"] is not None
    }
    if trained:
        worst = max(trained, key=lambda name: trained[name])
        text = f"{trained[worst]:.1e} ({worst}), of {len(trained)} networks that differ there"
        rows.append(("worst difference in training mode", text))
    if controls:
        weakest = min(controls, key=lambda name: controls[name][1])
        group, change = controls[weakest]
        rows.append(("weakest control", f"{change:.1e} ({weakest}, {group})"))
    return rows


def _peak_rows(records: Records) -> list[tuple[str, str]]:
    peaks = {n: float(r["peak_mib"]) for n, r in records.items() if r.get("peak_mib")}
    return [("peak memory in MiB", _spread(peaks))] if peaks else []


def _rows(smallest: Mapping[str, str], records: Records) -> str:
    rows = []
    for family, name in smallest.items():
        record = records.get(name, {})
        count = f"{record['parameters']:,}" if "parameters" in record else ""
        rows.append((family, name, count, *_figures(record)))
    return _markdown(_COLUMNS, rows, right=range(2, 10))


def _figures(record: Record) -> tuple[str, ...]:
    derived, proof = record.get("derived"), record.get("verified")
    first = ("", "", "", "")
    if derived:
        seconds = derived["seconds"]
        first = (
            _groups(record),
            _coverage(derived["coverage"]),
            _seconds(seconds["all"]),
            _seconds(seconds["solve"]),
        )
    second = (record.get("skipped", ""), "")
    if proof:
        second = (_seconds(proof["seconds"]), f"{proof['difference']:.0e}")
    return (*first, *second, str(derived["lines"]) if derived else "", _remark(record))


def _remark(record: Record) -> str:
    """Return in a few words what stays fixed, or what is missing."""
    if not record:
        return "not tried"
    words = [f"**{_cut(_failure(record), 100)}**"] if "failure" in record else []
    still = record.get("derived", {}).get("still", {})
    words += [f"{_percent(s)} {_cut(c, 80)}" for c, s in list(still.items())[:2] if s >= _SHARE]
    return "; ".join(words)


def _details(records: Records, heading: str) -> list[str]:
    """Return the sections about families: failures, operations without rules, low coverage."""
    sections = []
    failed = _failures(records)
    if failed:
        sections += [f"{heading} What failed", failed]
    unruled = _unruled(records)
    if unruled:
        sections += [f"{heading} Operations without a rule", unruled]
    low = _low(records)
    if low:
        sections += [f"{heading} Coverage under {_LOW}", _WHY]
    for name, derived in low.items():
        shares = [f"- {_percent(share)} {cause}" for cause, share in derived["still"].items()]
        sections.append(f"`{name}`, {_coverage(derived['coverage'])}. Of its parameters stay:")
        sections.append("\n".join(shares))
        sections.append("\n".join(["```yaml", "fixed:", *_indented(derived["fixed"]), "```"]))
    return sections


_WHY = """\
An axis stays where permuting it would permute what is given from outside. No more than that stays:

- *Outputs and inputs.* An order of outputs, of input channels or of pixels is part of the function.
  A network without a classifier returns its residual stream, so the stream has the outputs' order,
  and what stands between it and the inputs (patch embedding, norms, layer scale) has no other
  axis.
- *Positions.* A token is the patch of the image at its place. Attention alone would not mind
  another order, but what is learned for each place, or mixes places, would be given the wrong ones.
- *Kernels* slide over such positions, or, in efficient channel attention, over channels. Which of
  them are neighbours is part of the function.
- *Rotations.* Rotary embeddings turn each pair of coordinates of queries and keys with the place,
  at a speed of its own: pairs cannot trade places, nor the two of a pair, which turn to opposite
  sides.

Every reason below names the operation that this happens in. For four of the networks the number of
parameters that these rules leave no axis, computed from their sizes, is what stays in the derived
spec, to the last one (tests/derive/test_exactness.py)."""


def _lists(records: Records) -> list[str]:
    """Return the lists over all names: failures, operations without rules, low coverage."""
    sections = []
    low = [
        f"- {name}: {_coverage(derived['coverage'])}, {_remark(records[name])}"
        for name, derived in _low(records).items()
    ]
    for heading, text in (
        ("What failed", _failures(records)),
        ("Operations without a rule", _unruled(records)),
        (f"Coverage under {_LOW}", "\n".join(low)),
    ):
        sections += [f"### {heading}, all names", text] if text else []
    return sections


def _low(records: Records) -> Records:
    derived = {name: r["derived"] for name, r in sorted(records.items()) if "derived" in r}
    return {name: entry for name, entry in derived.items() if entry["coverage"] < _LOW}


def _failures(records: Records) -> str:
    failed = {name: r for name, r in sorted(records.items()) if "failure" in r}
    return "\n".join(f"- {name}: {_cut(_failure(r), 300)}" for name, r in failed.items())


def _unruled(records: Records) -> str:
    found: dict[str, list[str]] = {}
    for name, record in sorted(records.items()):
        for operation in record.get("derived", {}).get("unruled", {}):
            found.setdefault(operation, []).append(name)
    return "\n".join(f"- `{op}`: {', '.join(names)}" for op, names in sorted(found.items()))


# ------------------------------------------------------------------------------------- the words


def causes(reason: str) -> str:
    """Return the causes in the reason for a tensor, each once."""
    return ", ".join(dict.fromkeys(_PLACE.sub("", part) for part in reason.split("; ")))


def _failure(record: Record) -> str:
    failure = record["failure"]
    reason = " ".join(_FOLDERS.sub("", failure["reason"]).split())
    kind = {"memory": " (memory)", "crash": " (crash)"}.get(failure["kind"], "")
    return f"failed to {failure['stage']}{kind}: {reason}"


def _groups(record: Record) -> str:
    return f"{record['derived']['outermost']} / {record['derived']['factors']}"


def _coverage(share: float) -> str:
    return f"{math.floor(share * 1e4) / 1e4:.4f}"


def _percent(share: float) -> str:
    if share < 0.0001:
        return "under 0.01 %"
    return f"{100 * share:.{1 if share >= 0.001 else 2}f} %"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}"


def _spread(values: Mapping[str, float]) -> str:
    """Return median, 90th percentile and maximum, with whose it is."""
    ordered = sorted(values.values())
    largest = max(values, key=lambda name: values[name])
    middle, high = (ordered[math.ceil(q * len(ordered)) - 1] for q in (0.5, 0.9))
    show = _seconds if any(value % 1 for value in ordered) else "{:.0f}".format
    return f"median {show(middle)}, p90 {show(high)}, max {show(values[largest])} ({largest})"


def _at_least(values: Sequence[float], bounds: Iterable[float]) -> list[str]:
    return [str(sum(value >= bound for value in values)) for bound in bounds]


def _several(values: Iterable[object]) -> str:
    return " and ".join(sorted({str(value) for value in values})) or "(none)"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3].rstrip() + "..."


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _markdown(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()
) -> str:
    rules = ["---:" if column in right else "---" for column in range(len(heads))]
    lines = [heads, rules, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
