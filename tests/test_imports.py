"""The floors of the package: what may import what, and what loads no torch (design, section 2)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mergekit_perm

ROOT = Path(mergekit_perm.__file__).parent

# A unit is a module or a package right under mergekit_perm. A unit imports lower floors, itself,
# and, on a floor that `TOGETHER` names, its neighbours.
FLOORS = (
    {"errors", "progress", "files", "shipped", "cache", "lazy", "mergekit"},
    {
        "permutation",
        "groups",
        "axes",
        "axis_text",
        "axis_size",
        "members",
        "axis_action",
        "axis_elements",
        "tensor_action",
        "sections",
        "permspec",
        "permspec_text",
        "templates",
    }
    | {"yaml_document", "yaml_reader", "yaml_syntax", "folding"},
    {"checkpoints", "networks", "data", "weighted", "preprocessing", "python_path", "devices"}
    | {"alignment"},
    {"derive"},
    {"align"},
    {"merge"},
    {"train", "evaluate"},
    {"spec", "report"},
    {"pipeline"},
    {"cli", "__main__"},
)
TOGETHER = {0, 1, 2}
APART = {3, 4, 5, 6}
FLOOR_OF = {unit: floor for floor, units in enumerate(FLOORS) for unit in units}
ONLY_IN = {
    "timm": {"networks"},
    "scipy": {"align"},
    "rich": {"report", "cli"},
    "pydantic": {"spec"},
}
FILES = sorted(ROOT.rglob("*.py"))
MODULES = {
    ".".join(("mergekit_perm", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in FILES
}


def imported(path: Path, *, only_at_the_top: bool = False) -> Iterator[str]:
    """Every module that the file imports, wherever in it; submodules by their full name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if only_at_the_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def unit_of(module: str) -> str:
    """The unit of a module of this package; `mergekit_perm` itself is "" and holds no code."""
    return module.partition(".")[2].partition(".")[0]


def test_every_module_has_a_floor() -> None:
    assert {unit_of(module) for module in MODULES} - {""} <= set(FLOOR_OF)
    assert sum(map(len, FLOORS)) == len(FLOOR_OF)


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_lower_floors_only(module: str) -> None:
    unit = unit_of(module)
    targets = {unit_of(name) for name in imported(MODULES[module]) if name in MODULES} - {unit, ""}
    if unit == "":
        assert targets == {"lazy"}, "the package itself imports lazily"
        return
    floor = FLOOR_OF[unit]
    for target in targets:
        there = FLOOR_OF[target]
        allowed = there < floor or (there == floor and floor in TOGETHER)
        assert allowed, f"{module} (floor {floor}) imports {target} (floor {there})"
        assert not {floor, there} <= APART, f"{module} and {target} never import one another"
        assert target != "spec" or floor >= FLOOR_OF["pipeline"], f"{module} imports spec"


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_where_they_belong(module: str) -> None:
    for name in imported(MODULES[module]):
        library = name.partition(".")[0]
        assert unit_of(module) in ONLY_IN.get(library, {unit_of(module)}), (
            f"{module} imports {library}, which only {sorted(ONLY_IN[library])} may"
        )


def test_no_module_needs_itself_to_be_loaded() -> None:
    needs = {
        module: [name for name in imported(path, only_at_the_top=True) if name in MODULES]
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for needed in needs[module]:
                visit(needed, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())
    assert done == set(MODULES)


def test_what_has_to_start_fast_loads_no_torch() -> None:
    fast = [
        *("mergekit_perm", "mergekit_perm.spec", "mergekit_perm.permspec"),
        *(f"mergekit_perm.{unit}" for unit in sorted(FLOORS[0] | FLOORS[1])),
        "mergekit_perm.cli",
    ]
    script = (
        "import importlib, sys\n"
        f"for name in {fast!r}:\n"
        "    importlib.import_module(name)\n"
        "    slow = {'torch', 'timm', 'scipy', 'torchvision', 'sklearn'} & set(sys.modules)\n"
        "    assert not slow, f'{name} loads {sorted(slow)}'\n"
        "print('fine')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT.parent, check=False
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_every_public_name_is_there_and_comes_from_where_it_says() -> None:
    assert dir(mergekit_perm) == sorted(mergekit_perm.__all__)
    for name in mergekit_perm.__all__:
        assert getattr(mergekit_perm, name) is not None
    from mergekit_perm.permspec import PermutationSpec

    assert mergekit_perm.PermutationSpec is PermutationSpec


def test_an_unknown_public_name() -> None:
    with pytest.raises(AttributeError) as caught:
        mergekit_perm.nothing  # noqa: B018
    assert str(caught.value) == "module 'mergekit_perm' has no attribute 'nothing'"
