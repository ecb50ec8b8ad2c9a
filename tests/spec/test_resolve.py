from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mergekit_perm.spec import alignment, loads, resolved, without_seeds
from mergekit_perm.yaml_document import dump, read

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,6}", fullmatch=True)
TEXTS = st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
OPTIONS = st.dictionaries(TEXTS, JSON, max_size=2)
SHARES = st.floats(0, 1, exclude_max=True)
AMOUNTS = st.floats(0, 1e300)

TRAIN = {
    "epochs": st.integers(10, 99),
    "optimizer": st.sampled_from(["sgd", "adam", "adamw"]),
    "learning_rate": AMOUNTS,
    "momentum": SHARES,
    "weight_decay": AMOUNTS,
    "batch_size": st.integers(1, 999),
    "schedule": st.sampled_from(["one_cycle", "cosine", "constant"]),
    "warmup_epochs": st.floats(0, 10),
    "milestones": st.lists(st.integers(1, 99), max_size=3),
    "gamma": AMOUNTS,
    "augment": st.fixed_dictionaries(
        {}, optional={"flip": st.booleans(), "crop": st.integers(0, 9), "noise": AMOUNTS}
    ),
    "label_smoothing": SHARES,
    "checkpoints": st.lists(st.integers(0, 10), max_size=3, unique=True),
}


OPTIONS_OF = {
    "weight_matching": {
        "order": st.sampled_from(["random", "forward"]),
        "tolerance": AMOUNTS,
        "max_sweeps": st.integers(0, 999),
    },
    "activation_matching": {"kernel": st.just("covariance"), "rows": st.integers(2, 999)},
    "mixed": {"strength": AMOUNTS, "max_seconds": st.none() | st.floats(1, 9)},
    "sinkhorn": {
        "objective": st.sampled_from(["distance", "midpoint"]),
        "temperature": st.floats(0.1, 9),
    },
}


def alignments(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw the section `align`, with a method that is named or left out."""
    common = {
        "reference": st.sampled_from(["joint", *names]),
        "seed": st.integers(0, 2**63 - 1),
        "max_seconds": st.none() | st.floats(1e-3, 1e3),
    }
    return st.one_of(
        st.fixed_dictionaries({}, optional=common),
        *(
            st.fixed_dictionaries({"method": st.just(method)}, optional={**common, **own})
            for method, own in OPTIONS_OF.items()
        ),
    )


def values(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    """Draw a number, a gradient, or filters with either."""
    plain = numbers | st.lists(numbers, min_size=1, max_size=3)
    entry = st.fixed_dictionaries({"filter": TEXTS.filter(lambda t: t != "*"), "value": plain})
    last = st.fixed_dictionaries({"value": plain})
    return plain | st.tuples(entry, last).map(list)


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the data of a sound run spec."""
    names = draw(
        st.lists(NAMES.filter(lambda name: name != "joint"), min_size=2, max_size=4, unique=True)
    )
    seeds = st.integers(0, 2**63 - 1)
    trained = st.fixed_dictionaries(
        {"train": st.fixed_dictionaries({"seed": seeds}, optional=TRAIN)},
        optional={"options": OPTIONS},
    )
    loaded = st.fixed_dictionaries(
        {"checkpoint": TEXTS.map(lambda text: f"local-dir:{text}")},
        optional={"ema": st.sampled_from([True, False, "auto"]), "options": OPTIONS},
    )
    chosen = st.lists(st.sampled_from(names), min_size=1, unique=True)
    positive = st.floats(1e-3, 1e3)
    weights = positive | st.fixed_dictionaries(dict.fromkeys(names, positive))
    merges = st.lists(
        st.fixed_dictionaries(
            {"name": NAMES, "method": st.just("linear")},
            optional={
                "parameters": st.fixed_dictionaries(
                    {}, optional={"weight": weights, "normalize": st.booleans()}
                )
            },
        )
        | st.fixed_dictionaries({"name": NAMES, "method": st.just("linear"), "networks": chosen})
        | st.fixed_dictionaries(
            {
                "name": NAMES,
                "method": st.sampled_from(["ties", "breadcrumbs", "dare_linear"]),
                "base_model": st.just(names[0]),
                "parameters": st.fixed_dictionaries(
                    {},
                    optional={
                        "lambda": values(positive),
                        "density": values(st.floats(0, 1)),
                        "weight": values(positive)
                        | st.fixed_dictionaries(dict.fromkeys(names[1:], values(positive))),
                    },
                ),
            }
        ),
        max_size=3,
        unique_by=lambda merge: merge["name"],
    )
    splits = draw(st.lists(TEXTS, min_size=1, max_size=3, unique=True))
    pairs = st.sampled_from(["all", "none"]) | st.just([[names[0], names[1]]])
    evaluate = st.fixed_dictionaries(
        {"splits": st.just(splits)},
        optional={
            "points": st.integers(2, 99),
            "pairs": pairs,
            "simplex": st.none() | st.fixed_dictionaries({"grid": st.integers(1, 9)}),
            "calibration": st.sampled_from([["none"], ["none", "batch_norm"]]),
            "device": st.sampled_from(["auto", "cpu", "cuda:3"]),
            "batch_size": st.integers(1, 999),
        },
    )
    align = alignments(names)
    data = st.just("digits") | st.fixed_dictionaries(
        {"source": TEXTS}, optional={"root": TEXTS, "options": OPTIONS}
    )
    return draw(
        st.fixed_dictionaries(
            {
                "format": st.just("perm-merge/run@1"),
                "name": NAMES,
                "architecture": TEXTS,
                "data": data,
                "networks": st.fixed_dictionaries(dict.fromkeys(names, trained | loaded)),
            },
            optional={
                "options": OPTIONS,
                "train": st.fixed_dictionaries({}, optional=TRAIN),
                "align": align,
                "merge": merges,
                "evaluate": evaluate,
            },
        )
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(specs())
def test_resolving_keeps_the_spec(data: dict[str, Any]) -> None:
    spec = loads(dump(data))
    text = resolved(spec)
    assert loads(text) == spec
    assert resolved(loads(text)) == text
    # What was given is kept; the rest is added.
    assert _missing(data | {"data": {}}, read(text, file="f").data) == []


def _missing(given: Any, kept: Any, path: str = "") -> list[str]:
    """Return what is in `given` and not in `kept`, apart from nulls outside of options."""
    if isinstance(given, dict):
        return [
            line
            for key, value in given.items()
            if value is not None or "options" in path
            for line in (
                [f"{path}.{key}"]
                if key not in kept
                else _missing(value, kept[key], f"{path}.{key}")
            )
        ]
    if isinstance(given, list):
        return [line for a, b in zip(given, kept, strict=True) for line in _missing(a, b, path)]
    return [] if given == kept else [path]


def test_every_default_is_written() -> None:
    spec = loads(
        "format: perm-merge/run@1\n"
        "name: x\n"
        "architecture: mlp\n"
        "options: {bias: null}\n"
        "data: digits\n"
        "networks:\n"
        "  a: {train: {seed: 0, learning_rate: 1e-3}}\n"
        "  b: {checkpoint: hf-hub:org/id}\n"
        "align: {}\n"
        "merge: [{name: m, method: linear}]\n"
        "evaluate: {}\n"
    )
    assert resolved(spec) == (
        "# Written by perm-merge: the run spec with every default in its place.\n"
        "format: perm-merge/run@1\n"
        "name: x\n"
        "architecture: mlp\n"
        "options:\n"
        "  bias: null\n"
        "data:\n"
        "  source: digits\n"
        "  options: {}\n"
        "networks:\n"
        "  a:\n"
        "    train:\n"
        "      seed: 0\n"
        "      learning_rate: 0.001\n"
        "    ema: auto\n"
        "    options: {}\n"
        "  b:\n"
        "    checkpoint: hf-hub:org/id\n"
        "    ema: auto\n"
        "    options: {}\n"
        "train:\n"
        "  epochs: 60\n"
        "  optimizer: sgd\n"
        "  learning_rate: 0.1\n"
        "  momentum: 0.9\n"
        "  weight_decay: 0.0001\n"
        "  batch_size: 64\n"
        "  schedule: one_cycle\n"
        "  warmup_epochs: 0.0\n"
        "  milestones: []\n"
        "  gamma: 0.1\n"
        "  augment:\n"
        "    flip: false\n"
        "    crop: 0\n"
        "    noise: 0.0\n"
        "  label_smoothing: 0.0\n"
        "  checkpoints: []\n"
        "missing: []\n"
        "align:\n"
        "  reference: joint\n"
        "  method: mixed\n"
        "  permutations: auto\n"
        "  at: end\n"
        "  apply_to: network\n"
        "  seed: 0\n"
        "  restarts: 2\n"
        "  steps: 100\n"
        "  strength: 1.0\n"
        "  exchanges: 500\n"
        "  ratio: 1.0\n"
        "  count: 2048\n"
        "  batch_size: 256\n"
        "  rows: 2048\n"
        "  max_sweeps: 100\n"
        "  max_seconds: null\n"
        "merge:\n"
        "- name: m\n"
        "  method: linear\n"
        "  parameters:\n"
        "    weight: 1.0\n"
        "    normalize: true\n"
        "  calibrate: none\n"
        "evaluate:\n"
        "  splits: [train, test]\n"
        "  points: 25\n"
        "  pairs: all\n"
        "  controls: []\n"
        "  calibration: [none]\n"
        "  device: auto\n"
        "  batch_size: auto\n"
        "  precision: float32\n"
        "gates: []\n"
    )


@pytest.mark.parametrize("method", alignment.ALIGNMENTS)
def test_exactly_the_options_of_the_method_are_written(method: str) -> None:
    spec = loads(
        "format: perm-merge/run@1\nname: x\narchitecture: mlp\ndata: digits\n"
        "networks: {a: {train: {seed: 0}}, b: {train: {seed: 1}}}\n"
        f"align: {{method: {method}}}\n"
    )
    written = read(resolved(spec), file="f").data["align"]
    common = ["reference", "method", "permutations", "at", "apply_to"]
    expected = [*common, *alignment.options_of(method)]
    assert list(written) == expected
    assert written["method"] == method and written["max_seconds"] is None


def test_runs_that_repeat_one_another_share_a_hash() -> None:
    text = """
format: perm-merge/run@1
name: one
architecture: mlp
options: {in_features: 64, hidden: [8], num_classes: 10}
data: digits
networks: {a: {train: {seed: 0}}, seed: {train: {seed: 1}}}
align: {method: weight_matching, seed: 3}
evaluate: {simplex: {grid: 2, samples: 1, seed: 5}}
"""
    other = text.replace("name: one", "name: two")
    other = other.replace("seed: 0", "seed: 7")
    assert without_seeds(loads(other)) == without_seeds(loads(text))
    for old, new in (
        ("[8]", "[9]"), ("seed: {train", "b: {train"), ("grid: 2", "grid: 3"),
        ("seed: 3", "seed: 8"), ("seed: 5", "seed: 9"),
    ):  # fmt: skip
        assert without_seeds(loads(text.replace(old, new))) != without_seeds(loads(text))
