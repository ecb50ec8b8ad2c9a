"""A recipe of another distribution, installed in a folder on sys.path: an entry point and code."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from mergekit_perm import pipeline
from mergekit_perm.errors import MergeError, SpecError
from mergekit_perm.merge import RECIPES, find, merge, merge_tensors, plugins
from mergekit_perm.merge.options import Option
from mergekit_perm.spec import loads, resolved

DOCUMENT = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The last block of a language in the document about recipes."""
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)[-1]


MORE = """
def flat(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0].flatten()


def with_text(tensors: Sequence[Tensor], *, word: str = "x") -> Tensor:
    return tensors[0]


number = 3
"""
OTHERS = """
flat = half_recipes:flat
with_text = half_recipes:with_text
number = half_recipes:number
gone = half_recipes:nothing
linear = half_recipes:flat
"""
STATES = {n: {"w": torch.full((2, 2), v)} for n, v in (("a", 0.0), ("b", 2.0), ("c", 4.0))}
SPEC = """\
format: perm-merge/run@1
name: x
architecture: mlp
options: {in_features: 64, hidden: [4], num_classes: 10}
data: digits
networks: {a: {train: {seed: 0}}, b: {train: {seed: 1}}, c: {train: {seed: 2}}}
merge: [{name: m, base_model: a, method: METHOD, parameters: PARAMETERS}]
"""


def install(folder: Path, distribution: str, entry_points: str) -> None:
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(dedent(entry_points))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "half_recipes.py").write_text(block("python") + MORE)
    points = tomllib.loads(block("toml"))["project"]["entry-points"]["perm_merge.recipes"]
    documented = "".join(f"{name} = {place}\n" for name, place in points.items())
    install(tmp_path, "half-recipes", f"[perm_merge.recipes]\n{documented}{OTHERS}")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("half_recipes", None)


def test_the_document_lists_every_recipe_with_its_options() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) \|$", DOCUMENT, flags=re.MULTILINE)
    shown = {name: options for names, _, options in rows for name in re.findall(r"`(.*?)`", names)}
    for method in RECIPES:
        listed = [
            f"{name}{'*' * option.each}" + ("" if option.default is None else f" {text(option)}")
            for name, option in find(method).table.options.items()
        ]
        assert shown[method] == ", ".join(listed)


def text(option: Option) -> str:
    """A default as the document writes it."""
    if isinstance(option.default, bool):
        return str(option.default).lower()
    return f"{option.default:g}".replace("e-0", "e-")


def test_the_spec_in_the_document_is_sound() -> None:
    text = SPEC.partition("merge:")[0] + block_of_recipes()
    assert [recipe.name for recipe in loads(text).merge] == ["mean", "arc", "ties"]


def block_of_recipes() -> str:
    return re.findall(r"```yaml\n(.*?)```", DOCUMENT, flags=re.DOTALL)[0]


@pytest.mark.usefixtures("installed")
class TestInstalled:
    def test_it_is_called_like_any_other(self) -> None:
        merged = merge(STATES, method="halfway", base_model="a", weight={"b": 1, "c": 2})
        assert torch.equal(merged["w"], torch.full((2, 2), 2.0))
        near = merge(STATES, method="halfway", base_model="a", strength=0.25)
        assert torch.equal(near["w"], torch.full((2, 2), 0.5))

    def test_its_signature_is_its_option_table(self) -> None:
        table = find("halfway").table
        assert (table.base, table.fewest, table.most) == ("required", 2, 2)
        assert [(n, o.default, o.each) for n, o in table.options.items()] == [
            ("weight", 1.0, True), ("strength", 0.5, False),
        ]  # fmt: skip
        with pytest.raises(MergeError) as error:
            merge(STATES, method="halfway", base_model="a", strenght=0.25)
        assert str(error.value) == (
            "halfway: no parameter 'strenght' (did you mean 'strength'?); it takes weight, strength"
        )
        with pytest.raises(MergeError, match="strength: expected a number from 0 to 1, found 2"):
            merge(STATES, method="halfway", base_model="a", strength=2)

    def test_a_spec_may_name_it_and_has_its_defaults(self) -> None:
        spec = loads(SPEC.replace("METHOD", "halfway").replace("PARAMETERS", "{strength: 1}"))
        assert spec.merge[0].parameters.model_dump() == {"weight": 1.0, "strength": 1.0}
        assert loads(resolved(spec)) == spec

    def test_a_merge_follows_its_version_and_its_code(self, installed: Path) -> None:
        spec = loads(SPEC.replace("METHOD", "halfway").replace("PARAMETERS", "{strength: 1}"))

        def key() -> str:
            stages = pipeline.make_plan(spec).steps
            return next(step.stage.key for step in stages if step.stage.name == "merge/m")

        first = key()
        assert key() == first
        with (installed / "half_recipes.py").open("a") as code:
            code.write("# edited\n")
        edited = key()
        assert edited != first
        metadata = installed / "half_recipes-1.0.dist-info/METADATA"
        metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
        assert key() not in (first, edited)

    def test_a_spec_is_checked_against_it(self) -> None:
        text = SPEC.replace("METHOD", "halfway").replace("PARAMETERS", "{strenght: 1}")
        with pytest.raises(SpecError) as error:
            loads(text, file="f")
        assert "merge[0].parameters.strenght: halfway has no parameter 'strenght'" in str(
            error.value
        )
        assert "= did you mean 'strength'?" in str(error.value)

    def test_names_are_suggested_and_listed_without_loading_code(self) -> None:
        assert plugins.names() == ("flat", "gone", "halfway", "linear", "number", "with_text")
        with pytest.raises(MergeError, match="no merge method 'halfwy'"):
            merge(STATES, method="halfwy")
        with pytest.raises(SpecError, match="did you mean 'halfway'"):
            loads(SPEC.replace("METHOD", "halfwy").replace("PARAMETERS", "{}"))
        assert "half_recipes" not in sys.modules

    def test_names_of_this_package_are_taken(self) -> None:
        assert merge(STATES, method="linear")["w"].shape == (2, 2)

    def test_a_recipe_that_changes_shapes_is_found_out_before_anything_is_read(self) -> None:
        with pytest.raises(MergeError) as error:
            merge_tensors(STATES, method="flat")
        assert str(error.value) == ("flat: the recipe made (4,) of tensors of the shape (2, 2)")

    @pytest.mark.parametrize(
        ("method", "message"),
        [
            (
                "gone",
                "merge method 'gone' of 'half-recipes' (half_recipes:nothing) cannot be loaded: "
                "module 'half_recipes' has no attribute 'nothing'",
            ),
            (
                "number",
                "merge method 'number' of 'half-recipes' (half_recipes:number) is no function",
            ),
            (
                "with_text",
                "recipe 'with_text': the option 'word' has to be annotated as float, int, bool "
                "or PerNetwork",
            ),
        ],
    )
    def test_what_is_no_recipe(self, method: str, message: str) -> None:
        with pytest.raises(MergeError) as error:
            merge(STATES, method=method)
        assert str(error.value) == message
        with pytest.raises(SpecError) as spec_error:
            loads(SPEC.replace("METHOD", method).replace("PARAMETERS", "{}"), file="f")
        assert f"merge[0].method: {message}" in str(spec_error.value)


def test_two_distributions_with_one_name(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(installed / "more", "other-recipes", "[perm_merge.recipes]\nhalfway = x:y\n")
    monkeypatch.syspath_prepend(str(installed / "more"))
    with pytest.raises(MergeError) as error:
        merge(STATES, method="halfway")
    assert str(error.value) == (
        "merge method 'halfway' is in 'half-recipes' (half_recipes:halfway) and 'other-recipes' "
        "(x:y); uninstall all but one"
    )
