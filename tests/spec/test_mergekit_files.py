"""Files for mergekit as run specs: what is carried over, and the exact message where it cannot be.

UPDATE_GOLDEN=1 writes the messages anew; read the difference before keeping it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mergekit_perm.errors import SpecError
from mergekit_perm.mergekit import MERGEKIT_METHODS
from mergekit_perm.spec import loads
from mergekit_perm.spec.mergekit_files import Conversion, convert
from mergekit_perm.yaml_document import dump

FOLDER = Path(__file__).parents[1] / "golden" / "mergekit"
BAD = sorted(FOLDER.glob("*.yaml"))
TWO = "models:\n  - {model: a.pth, parameters: {%s}}\n  - {model: b.pth, parameters: {%s}}\n"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.pth", "b.pth", "c.pth"):
        Path(name).touch()


def converted(text: str, **options: Any) -> Conversion:
    given = {"file": "m.yaml", "folder": Path(), "name": "m", "provided": MERGEKIT_METHODS}
    return convert(text, **{**given, **options})


def recipe(text: str) -> dict[str, Any]:
    (merge,) = converted(text).data["merge"]
    assert isinstance(merge, dict)
    return merge


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_message(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        converted(text, file=path.name, folder=FOLDER, provided=("linear",))
    message = str(caught.value) + "\n"
    expected = path.with_suffix(".txt")
    if os.environ.get("UPDATE_GOLDEN") == "1":
        expected.write_text(message, encoding="utf-8")
    assert message == expected.read_text(encoding="utf-8")
    assert message.endswith("; nothing was converted.\n")
    assert "pydantic" not in message and "networks." not in message and "merge[" not in message


def test_every_message_has_its_file() -> None:
    assert len(BAD) > 12
    assert {path.stem for path in FOLDER.glob("*.txt")} == {path.stem for path in BAD}


def test_linear_becomes_a_run_spec_that_loads() -> None:
    done = converted("merge_method: linear\n" + TWO % ("weight: 0.3", "weight: 0.7"))
    spec = loads(dump({**done.data, "architecture": "mlp"}))
    assert [network.checkpoint for network in spec.networks.values()] == ["a.pth", "b.pth"]
    assert spec.align is not None and spec.align.reference == "joint"
    assert (spec.name, spec.merge[0].method) == ("m", "linear")
    assert done.data["merge"][0]["parameters"] == {"weight": {"a": 0.3, "b": 0.7}}
    assert done.notes == ()


def test_without_alignment_and_with_a_name() -> None:
    text = "name: mine\nmerge_method: linear\nmodels: [a.pth, b.pth]\n"
    data = converted(text, align=False).data
    assert "align" not in data and data["name"] == "mine"
    assert data["merge"] == [{"name": "linear", "method": "linear"}]


def test_a_single_network_is_not_aligned() -> None:
    assert "align" not in converted("merge_method: passthrough\nmodels: [a.pth]").data


TIES = """
merge_method: ties
base_model: c.pth
models:
  - {model: c.pth}
  - {model: a.pth, parameters: {weight: 0.3, density: [0.1, 0.9]}}
  - {model: b.pth, parameters: {weight: [{filter: fc, value: 0}]}}
parameters: {weight: 0.5, normalize: true, int8_mask: true}
"""


def test_ties() -> None:
    done = converted(TIES)
    (merge,) = done.data["merge"]
    assert list(done.data["networks"]) == ["c", "a", "b"]
    assert done.data["align"] == {"reference": "joint"}  # never the base model
    assert (merge["method"], merge["base_model"]) == ("ties", "c")
    assert merge["parameters"] == {
        # What no filter matches is what the whole file says.
        "weight": {"a": 0.3, "b": [{"filter": "fc", "value": 0}, {"value": 0.5}]},
        "normalize": True,
        "density": {"a": [0.1, 0.9], "b": 1.0},  # mergekit's default
    }
    gradient, idle = done.notes if "gradient" in done.notes[0] else done.notes[::-1]
    assert gradient.startswith("m.yaml:6:46: models[1].parameters.density: a gradient")
    assert "takes the first, 0.1, for all" in gradient
    assert idle.startswith("m.yaml:8:44: parameters.int8_mask: left out")


def test_a_base_that_is_not_listed_becomes_a_network() -> None:
    text = "merge_method: task_arithmetic\nbase_model: c.pth\n" + TWO % ("weight: 1", "weight: 2")
    data = converted(text).data
    assert list(data["networks"]) == ["c", "a", "b"]
    assert data["merge"][0]["base_model"] == "c"
    assert data["merge"][0]["parameters"] == {"weight": {"a": 1, "b": 2}}


def test_a_base_that_is_listed_and_not_used_is_left_out() -> None:
    text = "merge_method: linear\nbase_model: a.pth\n" + TWO % ("weight: 1", "weight: 2")
    done = converted(text)
    assert "base_model" not in done.data["merge"][0]
    assert done.notes == ("m.yaml:2:1: base_model: left out: linear uses no base model",)


def test_a_base_alone_is_no_list_of_models() -> None:
    with pytest.raises(SpecError, match="models: expected a list of models") as e:
        converted("merge_method: linear\nbase_model: a.pth\n")
    assert "uses no base model" not in str(e.value)


def test_a_file_of_slices_alone_is_not_told_about_models() -> None:
    with pytest.raises(SpecError) as caught:
        converted("merge_method: passthrough\nslices: []\n")
    assert str(caught.value).endswith("\n1 problem in m.yaml; nothing was converted.")


def test_something_else_is_told_what_is_missing() -> None:
    with pytest.raises(SpecError, match="the key 'merge_method' is missing") as caught:
        converted("colour: red\n")
    assert "for example: merge_method: linear" in str(caught.value)


def test_a_name_that_is_too_long_for_a_file() -> None:
    name = "x" * 5000
    data = converted(f"merge_method: linear\nmodels: [{name}, a.pth]").data
    assert next(iter(data["networks"].values())) == {"checkpoint": name}


def test_filters_without_a_wider_scope_stay_as_they_are() -> None:
    filters = "weight: [{filter: fc, value: 0}]"
    text = "merge_method: nearswap\n" + TWO % (filters, "weight: 1")
    assert recipe(text)["parameters"]["weight"]["a"] == [{"filter": "fc", "value": 0}]


def test_parameters_of_the_base_are_left_out() -> None:
    text = "merge_method: ties\nbase_model: a.pth\n" + TWO % ("weight: 1", "weight: 2")
    done = converted(text)
    assert done.data["merge"][0]["parameters"] == {"weight": {"b": 2}}
    (note,) = done.notes
    assert "models[0].parameters: ties does not read parameters of the base model" in note


def test_filters_and_gradients_of_the_whole_file_stay_as_they_are() -> None:
    filters = [{"filter": "attn", "value": [0, 0.5, 1]}, {"value": 0.5}]
    head = "merge_method: slerp\nbase_model: a.pth\nmodels: [a.pth, b.pth]\n"
    text = f"{head}parameters:\n  t: {filters}"
    done = converted(text)
    assert done.data["merge"][0]["parameters"] == {"t": filters}
    assert len(done.notes) == 1 and "takes the first, 0," in done.notes[0]


def test_a_filter_that_matches_all_needs_no_fallback() -> None:
    filters = "weight: [{filter: fc, value: 0}, {value: 2}]"
    text = "merge_method: nearswap\n" + TWO % (filters, "weight: 1") + "parameters: {weight: 7}"
    weight = recipe(text)["parameters"]["weight"]
    assert weight == {"a": [{"filter": "fc", "value": 0}, {"value": 2}], "b": 1}


def test_the_unused_density_of_task_arithmetic_is_noted() -> None:
    text = "merge_method: task_arithmetic\nbase_model: c.pth\n"
    done = converted(text + TWO % ("weight: 1, density: 0.5", "weight: 1"))
    assert done.data["merge"][0]["parameters"] == {"weight": {"a": 1, "b": 1}}
    assert "density: left out" in done.notes[0]


@pytest.mark.parametrize(
    ("dtypes", "written", "note"),
    [
        ("dtype: float16", "float16", "dtype: written in it; sums are taken in float64 here"),
        ("out_dtype: bfloat16", "bfloat16", None),
        (
            "dtype: float16\nout_dtype: bfloat16",
            "bfloat16",
            "dtype: 'out_dtype: bfloat16' is written; sums are taken in float64 here",
        ),
        ("dtype: torch.float16", "float16", "dtype: written in it"),
        ("dtype: null", None, None),
        ("dtype: ''", None, None),
    ],
)
def test_dtypes_are_kept(dtypes: str, written: str | None, note: str | None) -> None:
    done = converted(f"merge_method: linear\nmodels: [a.pth, b.pth]\n{dtypes}\n")
    assert done.data["merge"][0].get("out_dtype") == written
    notes = [each for each in done.notes if "dtype" in each]
    assert [note is None or note in each for each in notes] == [True] * (note is not None)


@pytest.mark.parametrize("more", ["", "out_dtype: float32\n"])
@pytest.mark.parametrize("dtype", ["int64", "auto", "8", "[float16]", "flaot16"])
def test_dtypes_that_are_none(dtype: str, more: str) -> None:
    with pytest.raises(SpecError, match=r":3:8: dtype: expected one of float64, float32") as error:
        converted(f"merge_method: linear\nmodels: [a.pth, b.pth]\ndtype: {dtype}\n{more}")
    assert str(error.value).endswith("\n1 problem in m.yaml; nothing was converted.")
    assert ("did you mean 'float16'?" in str(error.value)) == (dtype == "flaot16")


REFERENCES = {
    "a.pth": "a.pth",
    "./a.pth": "a.pth",
    "beside.pth": "there/beside.pth",
    "weights": "local-dir:weights",
    "org/name": "hf-hub:org/name",
    "org/name@v1": "hf-hub:org/name@v1",
    "hf-hub:org/name": "hf-hub:org/name",
    "local-dir:weights": "local-dir:weights",
    "gone.pth": "gone.pth",
    "runs/gone.safetensors": "runs/gone.safetensors",
    "/models/gone": "/models/gone",
    "{model: {path: org/name, revision: v1}}": "hf-hub:org/name@v1",
    "{model: org/name}": "hf-hub:org/name",
}


@pytest.mark.parametrize(("text", "reference"), REFERENCES.items())
def test_references(text: str, reference: str) -> None:
    for folder in ("weights", "there"):
        Path(folder).mkdir()
    Path("there/beside.pth").touch()
    done = converted(
        f"merge_method: linear\nmodels: [{{model: {text}}}, {{model: b.pth}}]", folder=Path("there")
    )
    assert next(iter(done.data["networks"].values())) == {"checkpoint": reference}
    there = Path(reference.removeprefix("local-dir:")).exists() or text.startswith("hf-hub:")
    assert bool(done.notes) != there


@pytest.mark.parametrize("method", ["nearswop", "dare-ties"])
def test_a_method_nobody_knows(method: str) -> None:
    with pytest.raises(SpecError, match=r"did you mean '(nearswap|dare_ties)'"):
        converted(f"merge_method: {method}\nmodels: [a.pth, b.pth]", provided=("linear",))


def test_a_run_spec_is_asked_for_where_a_mergekit_file_is_given() -> None:
    with pytest.raises(SpecError, match=r"perm-merge convert 'my merge\.yaml' -o NEW\.yaml"):
        loads("merge_method: linear\nmodels: []", file="my merge.yaml")
    with pytest.raises(SpecError, match=r"perm-merge convert - -o NEW\.yaml"):
        loads("merge_method: linear\nmodels: []", file="<stdin>")
