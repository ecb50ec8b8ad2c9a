"""Sweeps: which runs they stand for, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from mergekit_perm import pipeline
from mergekit_perm.cli.shared import spec_file
from mergekit_perm.errors import SpecError
from mergekit_perm.spec import Sweep, load_sweep, loads, loads_sweep, resolved, without_seeds

ROOT = Path(__file__).parents[2]

TEXT = """
format: perm-merge/run@1
name: widths
architecture: mlp
options: {in_features: 64, hidden: [8], num_classes: 10}
data: digits
networks: {a: {train: {seed: 3}}, "b.c": {train: {seed: 5}}}
train: {checkpoints: [0, 5]}
align: {method: weight_matching, reference: joint}
evaluate: {matrix: {}}
"""


def swept(tmp_path: Path, sweep: str, *overrides: str) -> Sweep:
    file = tmp_path / "widths.yaml"
    file.write_text(f"{TEXT}sweep: {sweep}\n")
    return load_sweep(file, overrides=overrides)


def test_all_combinations_of_all_values_and_seeds(tmp_path: Path) -> None:
    over = "{options.hidden: [[16, 16], [32]], align.method: [frank_wolfe, weight_matching]}"
    sweep = swept(tmp_path, f"{{seeds: 2, over: {over}}}")
    specs = [sweep.spec_of(variation) for variation in sweep.variations]
    assert [spec.name for spec in specs] == [
        f"hidden-{width}-{method}-{seeds}"
        for width in ("16-16", "32")
        for method in ("frank_wolfe", "weight_matching")
        for seeds in (0, 1)
    ]
    assert specs[0].options["hidden"] == [16, 16] and specs[-1].options["hidden"] == [32]
    assert specs[0].align is not None and specs[0].align.method == "frank_wolfe"
    assert all(spec.sweep is None for spec in specs)


def test_no_two_sets_share_a_seed(tmp_path: Path) -> None:
    sweep = swept(tmp_path, "{seeds: 3}")
    specs = [sweep.spec_of(variation) for variation in sweep.variations]
    seeds = [[n.train.seed for n in spec.networks.values() if n.train] for spec in specs]
    assert seeds == [[3, 5], [6, 8], [9, 11]]
    assert len(set(itertools.chain(*seeds))) == 6
    assert [spec.name for spec in specs] == ["widths-0", "widths-1", "widths-2"]
    assert len({without_seeds(spec) for spec in specs}) == 1


def test_values_that_look_alike_have_names_of_their_own(tmp_path: Path) -> None:
    sweep = swept(tmp_path, "{over: {options.hidden: [[1, 6], [16], [[16]]]}}", "data=digits")
    names = [sweep.spec_of(variation).name for variation in sweep.variations]
    assert names == ["hidden-1-6", "hidden-16", "hidden-16-2"]


def test_overrides_come_before_the_values_of_the_sweep(tmp_path: Path) -> None:
    sweep = swept(tmp_path, "{over: {align.seed: [1, 2]}}", "align.seed=7", "align.restarts=4")
    specs = [sweep.spec_of(variation) for variation in sweep.variations]
    assert [spec.align.options["seed"] for spec in specs if spec.align] == [1, 2]
    assert {spec.align.options["restarts"] for spec in specs if spec.align} == {4}


def test_fields_that_change_together(tmp_path: Path) -> None:
    over = "{'options.hidden, train.epochs': [[[8], 5], [[16], 7]], align.seed: [1, 2]}"
    sweep = swept(tmp_path, f"{{over: {over}}}")
    specs = [sweep.spec_of(variation) for variation in sweep.variations]
    found = [(s.options["hidden"], s.train.epochs) for s in specs]
    assert found == [([8], 5), ([8], 5), ([16], 7), ([16], 7)]
    assert [v.label for v in sweep.variations][::2] == [
        "hidden-8-epochs-5-seed-1", "hidden-16-epochs-7-seed-1",
    ]  # fmt: skip
    assert dict(sweep.variations[0].values) == {
        "options.hidden": "[8]", "train.epochs": "5", "align.seed": "1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("{seeds: 0}", "sweep.seeds: expected"),
        ("{over: {align.seed: []}}", "expected at least one entry"),
        ("{over: {align.sede: [1]}}", "unknown key 'sede'"),
        ("{over: {align.method: [weight_matchin]}}", "did you mean 'weight_matching'?"),
        ("{over: {'': [1]}}", "sweep"),
        ("{over: {'align.seed, train.epochs': [1]}}", "is a list of 2, found 1"),
        ("{over: {'align.seed, train.epochs': [[1]]}}", "is a list of 2, found [1]"),
        ("{over: {'align.seed, name': [[1, x]]}}", "'name' is not for a sweep to change"),
        ("{over: {name: [x, y]}}", "'name' is not for a sweep to change"),
        ("{over: {sweep.seeds: [1]}}", "'sweep.seeds' is not for a sweep to change"),
    ],
)
def test_sweeps_that_are_refused(tmp_path: Path, sweep: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        swept(tmp_path, sweep)
    assert message in str(error.value)


def test_a_spec_without_a_sweep(tmp_path: Path) -> None:
    file = tmp_path / "plain.yaml"
    file.write_text(TEXT)
    with pytest.raises(SpecError, match="this spec has no sweep; add, for example"):
        load_sweep(file)


CLAIM = "text: low, value: {figure: pair}"


def test_claims_are_bounds(tmp_path: Path) -> None:
    claims = (
        f"[{{{CLAIM}, at_most: 0.1}}, "
        "{text: t, value: {found_at: none, applied_at: [0, end, prune1]}, "
        "at_least: {times: 2, of: {found_at: all, applied_at: 5}, run: widths}, metric: error}]"
    )
    sweep = swept(tmp_path, f"{{seeds: 2, claims: {claims}}}")
    assert sweep.spec.sweep is not None
    first, second = sweep.spec.sweep.claims
    assert first.at_most is not None and (first.at_most.times, first.at_most.of) == (0.1, None)
    assert second.value.found_at == ("none",)
    assert second.value.applied_at == ("0", "end", "prune1")
    assert second.at_least is not None and second.at_least.of is not None
    assert second.at_least.of.applied_at == ("5",)
    assert loads(resolved(sweep.spec), folder=tmp_path) == sweep.spec


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (CLAIM, "a claim has one bound: 'at_most' or 'at_least'"),
        (f"{CLAIM}, at_most: 1, at_least: 0", "a claim has one bound"),
        (f"{CLAIM}, at_most: little", "expected a number, or {times: ..., of: {figure: ...}}"),
        (f"{CLAIM}, at_most: true", "expected a number, or {times"),
        ("text: t, value: {}, at_most: 1", "a barrier is a figure, or found_at and applied_at"),
        ("text: t, value: {found_at: 1}, at_most: 1", "found_at and applied_at go together"),
        (
            "text: t, value: {found_at: soon, applied_at: 1}, at_most: 1",
            "expected none, all, or a list of epochs and levels",
        ),
        ("value: {figure: pair}, at_most: 1", "the field 'text' is missing"),
        (f"{CLAIM}, at_most: {{times: 1, run: x}}", "there is no 'of'"),
        (f"{CLAIM}, at_most: 1, runs: [wide]", "no runs 'wide' (did you mean 'widths'?); there is"),
        (f"{CLAIM}, at_most: 1, split: tset", "evaluate has no split 'tset' (did you mean 'test'"),
        (f"{CLAIM}, at_most: 1, calibration: batch_norm", "no calibration 'batch_norm'"),
        ("text: t, value: {found_at: [all, 3], applied_at: 1}, at_most: 1", "expected none, all"),
        ("text: t, value: {found_at: 1, applied_at: none}, at_most: 1", "'none' is for found_at"),
    ],
)
def test_claims_that_are_refused(tmp_path: Path, claim: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        swept(tmp_path, f"{{claims: [{{{claim}}}]}}")
    assert message in str(error.value)


CLAIMS = sorted((ROOT / "specs/claims").glob("*.yaml"))


def test_claims_are_found_by_name() -> None:
    assert CLAIMS
    assert [spec_file(path.stem) for path in CLAIMS] == list(map(str, CLAIMS))
    with pytest.raises(SpecError, match="did you mean 'trajectory'"):
        spec_file("trajectry")


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_every_shipped_claim_is_a_sweep(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.spec.name == path.stem
    assert sweep.spec.sweep is not None and sweep.spec.sweep.seeds >= 5
    assert sweep.spec.sweep.claims
    labels = {variation.label for variation in sweep.variations}
    for claim in sweep.spec.sweep.claims:
        bound = claim.at_most or claim.at_least
        assert bound is not None
        assert {*(claim.runs or ()), *([bound.run] if bound.run else [])} <= labels
    assert pipeline.sweep.claims_of(sweep)


def test_seeds_among_the_values_of_a_sweep_are_kept(tmp_path: Path) -> None:
    sweep = swept(tmp_path, "{seeds: 2, over: {networks.a.train.seed: [10, 20]}}")
    specs = [sweep.spec_of(variation) for variation in sweep.variations]
    seeds = [[n.train.seed for n in spec.networks.values() if n.train] for spec in specs]
    assert seeds == [[10, 5], [26, 21], [20, 5], [36, 21]]
    other = "{b: {train: {seed: 1}}, c: {train: {seed: 2}}}"
    sweep = swept(tmp_path, f"{{seeds: 2, over: {{networks: [{other}]}}}}")
    assert [list(sweep.spec_of(v).networks) for v in sweep.variations] == [["b", "c"]] * 2


def test_without_a_network_that_is_trained_seeds_say_nothing(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.pth").touch()
    networks = "networks={a: {checkpoint: a.pth}, b: {checkpoint: b.pth}}"
    plain = (networks, "evaluate={}", "train={}")
    with pytest.raises(SpecError, match="no network is trained here"):
        swept(tmp_path, "{seeds: 2}", *plain)
    assert len(swept(tmp_path, "{seeds: 1}", *plain).variations) == 1


def test_names_of_values(tmp_path: Path) -> None:
    over = "{align.seed: [1], options.hidden: [[-1, 2], [1, 2]], align.reference: [a, joint]}"
    text = swept(tmp_path, f"{{over: {over}}}")
    assert [v.label for v in text.variations][::2] == [
        "seed-1-hidden-minus1-2-a", "seed-1-hidden-1-2-a",
    ]  # fmt: skip
    networks = "[{'1': {train: {seed: 0}}, '2': {train: {seed: 1}}}]"
    numbers = f"{{networks: {networks}, align.reference: ['1']}}"
    sweep = swept(tmp_path, f"{{over: {numbers}}}")
    assert sweep.spec_of(sweep.variations[0]).name.endswith("-1")
    long = swept(tmp_path, f"{{over: {{options.hidden: [{list(range(1, 99))}]}}}}")
    assert len(long.variations[0].label) < 80


def test_a_sweep_comes_from_text(tmp_path: Path) -> None:
    sweep = loads_sweep(f"{TEXT}sweep: {{seeds: 2}}\n", folder=tmp_path)
    assert [variation.label for variation in sweep.variations] == ["widths"] * 2
