"""The plan: the stages of a run, what is done, and how much memory it takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mergekit_perm import pipeline
from mergekit_perm.spec import RunSpec

Small = Callable[..., RunSpec]


def statuses(plan: pipeline.Plan) -> dict[str, str]:
    return {step.stage.name: step.status for step in plan.steps}


def test_a_plan_names_every_stage_in_order_and_runs_none(small: Small) -> None:
    plan = pipeline.make_plan(small())
    assert list(statuses(plan)) == [
        "networks/a",
        "networks/b",
        "networks/c",
        "permutations",
        "align",
        "merge/mean",
        *(
            f"evaluate/{alignment}/none/{label}"
            for alignment in ("naive", "aligned")
            for label in ("networks", "a+b", "a+c", "b+c", "simplex")
        ),
        "evaluate/merged/none/mean",
        "card/mean",
    ]
    assert set(statuses(plan).values()) == {"to do"}
    assert not pipeline.default_folder(small()).exists()


def test_a_plan_tells_done_from_cached_from_to_do(small: Small) -> None:
    pipeline.run(small())
    assert set(statuses(pipeline.make_plan(small())).values()) == {"done"}
    elsewhere = statuses(pipeline.make_plan(small(), out="elsewhere"))
    assert {name for name, status in elsewhere.items() if status == "cached"} == {
        "networks/a",
        "networks/b",
        "networks/c",
        "permutations",
    }
    changed = statuses(pipeline.make_plan(small("networks.c.train.seed=9")))
    assert changed["networks/a"] == "done" and changed["networks/c"] == "to do"
    assert changed["align"] == "to do"


def test_shared_points_are_measured_once(small: Small) -> None:
    plan = pipeline.make_plan(small())
    # 3 networks, 3 paths of 3 inner points; of the grid's 10 points the 3 corners are known, and
    # thirds are not among fourths: 6 on edges and the barycentre are left. Naive and aligned.
    assert plan.points == 2 * (3 + 3 * 3 + 7)
    fitting = pipeline.make_plan(small("evaluate.points=4"))
    assert fitting.points == 2 * (3 + 3 * 2 + 1)


def test_the_memory_estimate_grows_with_the_networks(small: Small) -> None:
    wide = pipeline.make_plan(small("options.hidden=[2048, 2048]"))
    entries = 64 * 2048 + 2048 * 2048 + 2048 * 10 + 2048 * 2 + 10
    floats = 4 * entries
    added = wide.peak_memory - pipeline.make_plan(small()).peak_memory
    # Three networks jointly, measured by tests/benchmarks/test_run_memory.py.
    assert added == pytest.approx(3 * 3.5 * floats, rel=0.01)
    # Without alignment it is training that takes most: weights, gradients, momenta.
    alone = [small("align=null", f"options.hidden={hidden}") for hidden in ([2048, 2048], [8, 8])]
    wide, narrow = (pipeline.make_plan(spec).peak_memory for spec in alone)
    assert wide - narrow == pytest.approx(5 * floats, rel=0.01)


def test_a_plan_is_plain_data(small: Small) -> None:
    plan = pipeline.make_plan(small("align.reference=c")).to_json()
    assert plan["stages"][4]["title"] == (
        "align a, b, c to c by weight_matching, which looks at weights alone"
    )
    assert plan["stages"][4]["files"][:2] == ["permutations/a.safetensors", "aligned/a.safetensors"]
    assert plan["points"] == 38 and plan["peak_memory_bytes"] > 0
