"""Weight matching: planted permutations are found, the objective never falls, functions stay."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from mergekit_perm.align import METHODS, Family, align
from mergekit_perm.align.descent import pairwise_objective
from mergekit_perm.errors import AlignmentError
from mergekit_perm.members import own_moves
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Permutation

torch.set_num_threads(1)

State = dict[str, torch.Tensor]

SPECS = {
    "mlp": """
groups: {one: 9, two: 7}
axes:
  first.weight: [one, 5]
  first.bias: [one]
  second.weight: [two, one]
  second.bias: [two]
  norm.*: [two]
  head.weight: [3, two]
""",
    "convolutions": """
groups: {stream: 6, hidden: 8}
axes:
  stem.weight: [stream, 3, 3, 3]
  in.weight: [hidden, stream, 3, 3]
  depthwise.weight: [hidden, 1, 3, 3]
  out.weight: [stream, hidden, 1, 1]
  head.weight: [4, stream * 4]
""",
    "grouped": """
groups:
  stream: 5
  blocks: 4
  in: {size: 3, within: blocks}
  out: {size: 2, within: blocks}
axes:
  stem.weight: [stream, 6]
  in.weight: [in, stream]
  in.bias: [in]
  grouped.weight: [out, inner(in), 3]
  grouped.bias: [out]
  head.weight: [stream, out]
""",
    "attention": """
groups:
  stream: 8
  heads: 3
  qk: {size: 4, within: heads}
  vo: {size: 4, within: heads}
axes:
  embed.weight: [stream, 10]
  qkv.weight: [qk + qk + vo, stream]
  qkv.bias: [qk + qk + vo]
  proj.weight: [stream, vo]
  table: [11, heads]
  head.weight: [7, stream]
""",
    "three deep": """
groups:
  stream: 5
  stacks: 3
  layers: {size: 2, within: stacks}
  units: {size: 4, within: layers}
axes:
  in.weight: [units, stream]
  in.bias: [units]
  scale: [layers]
  stem.weight: [stream, 6]
  head.weight: [stream, units]
""",
    "concatenation": """
groups: {a: 5, b: 4}
axes:
  a.weight: [a, 6]
  b.weight: [b, a + 2]
  head.weight: [3, "a[::-1] + b + b"]
""",
}

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "mlp": {
        "first.weight": (9, 5), "first.bias": (9,), "second.weight": (7, 9), "second.bias": (7,),
        "norm.weight": (7,), "norm.running_mean": (7,), "head.weight": (3, 7), "head.bias": (3,),
    },
    "convolutions": {
        "stem.weight": (6, 3, 3, 3), "in.weight": (8, 6, 3, 3), "depthwise.weight": (8, 1, 3, 3),
        "out.weight": (6, 8, 1, 1), "head.weight": (4, 24),
    },
    "grouped": {
        "stem.weight": (5, 6), "in.weight": (12, 5), "in.bias": (12,), "grouped.weight": (8, 3, 3),
        "grouped.bias": (8,), "head.weight": (5, 8),
    },
    "attention": {
        "embed.weight": (8, 10), "qkv.weight": (36, 8), "qkv.bias": (36,), "proj.weight": (8, 12),
        "table": (11, 3), "head.weight": (7, 8),
    },
    "three deep": {
        "in.weight": (24, 5), "in.bias": (24,), "scale": (6,), "stem.weight": (5, 6),
        "head.weight": (5, 24),
    },
    "concatenation": {"a.weight": (5, 6), "b.weight": (4, 7), "head.weight": (3, 13)},
}  # fmt: skip


def spec_of(name: str) -> PermutationSpec:
    text = f"format: perm-merge/permspec@1\n{SPECS[name].strip()}\n"
    return PermutationSpec.loads(text).bind(SHAPES[name])


def random_state(name: str, seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        tensor: torch.randn(shape, generator=generator) for tensor, shape in SHAPES[name].items()
    }


def networks(name: str, count: int = 3) -> dict[str, State]:
    return {"abcde"[seed]: random_state(name, seed) for seed in range(count)}


def weights(state: Mapping[str, torch.Tensor]) -> State:
    return {name: t.double() for name, t in state.items() if "running" not in name}


def objective(family: Family, spec: PermutationSpec) -> float:
    """The sum of pairwise inner products of what the spec permutes, worked out directly."""
    states = [weights(state) for state in family.states.values()]
    return sum(
        float((a[t] * b[t]).sum())
        for a, b in itertools.combinations(states, 2)
        for t in a
        if t in spec.axes
    )


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_a_planted_permutation_is_found(name: str, noise: float) -> None:
    spec, state = spec_of(name), random_state(name, 0)
    planted = spec.random(generator=np.random.default_rng(1))
    copy = spec.apply(planted, state)
    noisy = {t: v + noise * torch.randn(v.shape, generator=torch.Generator().manual_seed(2))
             for t, v in copy.items()}  # fmt: skip
    # Groups nested three deep are matched level by level, which takes another start.
    family = align({"a": state, "b": noisy}, spec, reference="a", restarts=1 + ("three" in name))
    assert family.permutations["b"] == {g: p.inverse() for g, p in planted.items()}
    if not noise:
        assert all(torch.equal(family.states["b"][t], state[t]) for t in state)


@pytest.mark.parametrize("name", SPECS)
def test_planted_permutations_of_several_networks_are_found_jointly(name: str) -> None:
    spec, state = spec_of(name), random_state(name, 0)
    generator = np.random.default_rng(1)
    copies = {n: spec.apply(spec.random(generator=generator), state) for n in "abcd"}
    family = align(copies, spec)
    assert all(
        torch.equal(family.states[n][t], family.states["a"][t]) for n in "abcd" for t in state
    )


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("reference", ["joint", "b"])
def test_the_objective_never_falls_and_is_what_is_reported(name: str, reference: str) -> None:
    spec = spec_of(name)
    family = align(networks(name), spec, reference=reference)
    assert family.traces.keys() == ({"joint"} if reference == "joint" else {"a", "c"})
    for trace in family.traces.values():
        assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(trace))
        assert trace[-1] > trace[0] - 1e-9
    assert family.objective == pytest.approx(objective(family, spec), rel=1e-9)
    if reference == "joint":
        assert family.traces["joint"][-1] == pytest.approx(family.objective, rel=1e-9)
    assert family.objective > family.objective_before


def test_starts_that_do_not_cool_differ() -> None:
    spec = spec_of("mlp")
    gains = []
    for seed in range(5):
        states = {n: random_state("mlp", 10 * seed + i) for i, n in enumerate("abcd")}
        one, three = (align(states, spec, cooling=0, restarts=r, seed=seed) for r in (1, 3))
        gains.append(three.objective - one.objective)
    assert min(gains) >= -1e-9
    assert max(gains) > 1e-3


def test_a_joint_descent_ends_when_sweeps_gain_little_unless_told_otherwise() -> None:
    spec = spec_of("mlp")
    states = {str(i): random_state("mlp", i) for i in range(12)}
    brief, loose, exact = (
        align(states, spec, cooling=0, tolerance=tolerance) for tolerance in (None, 2e-5, 0.0)
    )
    assert brief.traces == loose.traces
    assert len(exact.traces["joint"]) >= len(brief.traces["joint"])
    before, last = exact.traces["joint"][-2:]
    assert last == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("restarts", [1, 2])
def test_joint_is_never_below_matching_to_the_first(name: str, restarts: int) -> None:
    spec = spec_of(name)
    for seed in range(3):
        states = {n: random_state(name, 10 * seed + i) for i, n in enumerate("abc")}
        one = align(states, spec, reference="a", restarts=restarts, seed=seed)
        joint = align(states, spec, restarts=restarts, seed=seed)
        assert joint.objective >= one.objective - 1e-9


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("reference", ["joint", "b"])
def test_states_are_the_networks_permuted_and_the_anchor_stays(name: str, reference: str) -> None:
    spec, states = spec_of(name), networks(name)
    kept = {n: {t: v.clone() for t, v in s.items()} for n, s in states.items()}
    family = align(states, spec, reference=reference)
    for n in states:
        applied = spec.apply(family.permutations[n], states[n])
        assert all(torch.equal(applied[t], family.states[n][t]) for t in applied)
        assert all(torch.equal(kept[n][t], states[n][t]) for t in states[n])
    anchor = "a" if reference == "joint" else reference
    assert all(torch.equal(family.states[anchor][t], states[anchor][t]) for t in states[anchor])
    assert any(not torch.equal(family.states["c"][t], states["c"][t]) for t in states["c"])


def test_one_seed_gives_one_result_and_inputs_may_come_in_any_dtype() -> None:
    spec, states = spec_of("attention"), networks("attention")
    first, second = (align(states, spec, seed=3, restarts=4) for _ in range(2))
    assert first.permutations == second.permutations
    halves = {n: {t: v.half() for t, v in s.items()} for n, s in states.items()}
    assert align(halves, spec).states["b"]["table"].dtype == torch.float16


def test_more_restarts_are_never_worse() -> None:
    spec, states = spec_of("grouped"), networks("grouped", 4)
    for reference in ("a", "joint"):
        reached = [align(states, spec, reference=reference, restarts=n) for n in (1, 2, 5)]
        sums = [sum(trace[-1] for trace in family.traces.values()) for family in reached]
        assert sums == sorted(sums)


def test_a_network_is_matched_the_same_whoever_else_is_there() -> None:
    spec, states = spec_of("mlp"), networks("mlp", 4)
    pair = align({n: states[n] for n in "ac"}, spec, reference="a")
    every = align(states, spec, reference="a")
    assert pair.permutations["c"] == every.permutations["c"]


def test_permuting_all_networks_alike_changes_nothing_but_the_frame() -> None:
    spec, states = spec_of("convolutions"), networks("convolutions")
    common = spec.random(generator=np.random.default_rng(4))
    moved = {n: spec.apply(common, state) for n, state in states.items()}
    one, other = align(states, spec, order="forward"), align(moved, spec, order="forward")
    assert other.objective_before == pytest.approx(one.objective_before, rel=1e-9)
    back = {g: p.inverse() for g, p in common.items()}
    framed = {n: spec.apply(back, state) for n, state in other.states.items()}
    assert pairwise_objective({n: weights(s) for n, s in framed.items()}) == pytest.approx(
        pairwise_objective({n: weights(s) for n, s in other.states.items()}), rel=1e-9
    )


def members_of(spec: PermutationSpec) -> list[dict[str, Permutation]]:
    """Every member of a small group."""
    choices = []
    for group in spec.groups.values():
        orders = [np.array(order) for order in itertools.permutations(range(group.size))]
        blocks = 1 if group.within is None else spec.groups.length(group.within)
        moves = itertools.product(orders, repeat=blocks)
        choices.append([m[0] if group.within is None else np.stack(m) for m in moves])
    return [
        spec.permutations(dict(zip(spec.groups, choice, strict=True)))
        for choice in itertools.product(*choices)
    ]


SMALL_GROUPS = {
    "one group": ("groups: {g: 5}\naxes: {w: [g, 3], v: [2, g + g]}", {"w": (5, 3), "v": (2, 10)}),
    "nested": (
        "groups: {h: 2, g: {size: 3, within: h}}\naxes: {w: [g + h, 4], v: [4, g * 2]}",
        {"w": (8, 4), "v": (4, 12)},
    ),
}


@pytest.mark.parametrize("case", SMALL_GROUPS)
def test_one_linear_problem_is_solved_exactly(case: str) -> None:
    text, shapes = SMALL_GROUPS[case]
    spec = PermutationSpec.loads(f"format: perm-merge/permspec@1\n{text}\n").bind(shapes)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        a, b = ({t: torch.randn(s, generator=generator) for t, s in shapes.items()} for _ in "ab")
        found = align({"a": a, "b": b}, spec, reference="a").objective
        best = max(
            sum(float((a[t].double() * moved[t].double()).sum()) for t in a)
            for moved in (spec.apply(member, b) for member in members_of(spec))
        )
        assert found == pytest.approx(best, rel=1e-6)


def test_a_group_on_two_axes_of_one_tensor_never_lowers_the_objective() -> None:
    text = "format: perm-merge/permspec@1\ngroups: {g: 6}\naxes: {w: [g, g], v: [g, 2]}\n"
    spec = PermutationSpec.loads(text).bind({"w": (6, 6), "v": (6, 2)})
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        a, b = (
            {
                "w": torch.randn(6, 6, generator=generator),
                "v": torch.randn(6, 2, generator=generator),
            }
            for _ in "ab"
        )
        family = align({"a": a, "b": b}, spec, reference="a")
        trace = family.traces["b"]
        assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(trace))
        assert family.objective >= family.objective_before - 1e-9


def test_running_statistics_move_but_do_not_decide() -> None:
    spec, states = spec_of("mlp"), networks("mlp", 2)
    loud = {t: v * (1000 if "running" in t else 1) for t, v in states["b"].items()}
    quiet = align(states, spec, reference="a")
    family = align({"a": states["a"], "b": loud}, spec, reference="a")
    assert family.permutations == quiet.permutations
    assert family.objective == pytest.approx(quiet.objective)
    two = family.permutations["b"]["two"]
    assert torch.equal(family.states["b"]["norm.running_mean"], two.act(loud["norm.running_mean"]))


def test_progress_is_told_and_ends() -> None:
    told: list[tuple[str, int, int]] = []
    align(networks("mlp"), spec_of("mlp"), progress=lambda *event: told.append(event))
    tasks = {task for task, _, _ in told}
    assert any("jointly" in task for task in tasks)
    assert all((task, 100, 100) in told for task in tasks)


def test_wrong_use_is_refused() -> None:
    spec, states = spec_of("mlp"), networks("mlp")
    cases: list[tuple[dict[str, State], dict[str, object], str]] = [
        ({"a": states["a"]}, {}, "alignment needs at least two networks, found 1"),
        (
            states,
            {"reference": "d"},
            "reference 'd' is no network of this run; known: a, b, c, or joint",
        ),
        (
            states,
            {"method": "weight_matchin"},
            "unknown alignment method 'weight_matchin' (did you mean 'weight_matching'?); "
            f"known: {', '.join(METHODS)}",
        ),
        (
            states,
            {"restart": 2},
            "weight_matching has no option 'restart' (did you mean 'restarts'?)",
        ),
        (states, {"restarts": 0}, "restarts must be at least 1, found 0"),
        (states, {"order": "backward"}, "order is 'random' or 'forward', not 'backward'"),
    ]
    for networks_given, options, message in cases:
        with pytest.raises(AlignmentError) as error:
            align(networks_given, spec, **options)  # type: ignore[arg-type]
        assert str(error.value) == message


def test_networks_that_do_not_belong_together_are_refused() -> None:
    spec, states = spec_of("mlp"), networks("mlp", 2)
    other = {**states["b"], "head.weight": torch.zeros(4, 7)}
    with pytest.raises(AlignmentError) as error:
        align({"a": states["a"], "b": other}, spec)
    assert "head.weight" in str(error.value)
    del other["head.weight"]
    with pytest.raises(AlignmentError, match=r"head\.weight"):
        align({"a": states["a"], "b": other}, spec)
    broken = {**states["b"], "head.weight": torch.full((3, 7), float("nan"))}
    with pytest.raises(AlignmentError, match=r"21 of 21 values of head\.weight are not finite"):
        align({"a": states["a"], "b": broken}, spec)


def test_members_are_members() -> None:
    for name in SPECS:
        spec = spec_of(name)
        for member in align(networks(name), spec).permutations.values():
            spec.check_permutations(member)
            own_moves(spec.groups, {g: p.indices for g, p in member.items()})
