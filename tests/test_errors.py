from __future__ import annotations

import ast
import inspect

import pytest

from mergekit_perm import errors
from mergekit_perm.errors import PermMergeError, suggest

EXIT_CODES = {
    "PermMergeError": 3,
    "SpecError": 2,
    "PermutationSpecError": 2,
    "DerivationError": 2,
    "NetworkError": 2,
    "CheckpointError": 3,
    "DataError": 3,
    "AlignmentError": 3,
    "MergeError": 3,
    "EvaluationError": 3,
    "RunError": 3,
}


def exceptions() -> dict[str, type[PermMergeError]]:
    return {
        name: thing
        for name, thing in vars(errors).items()
        if inspect.isclass(thing) and issubclass(thing, Exception)
    }


def test_exit_codes() -> None:
    assert {name: kind.exit_code for name, kind in exceptions().items()} == EXIT_CODES


def test_the_tree_is_the_one_drawn_at_the_top() -> None:
    drawing = ast.get_docstring(ast.parse(inspect.getsource(errors)))
    assert drawing is not None
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in drawing.splitlines():
        name = next((word for word in line.split() if word in EXIT_CODES), None)
        if name is None or not line.startswith(" "):
            continue
        column = line.index(name)
        above = [(depth, each) for depth, each in above if depth < column]
        parents[name] = above[-1][1] if above else "Exception"
        above.append((column, name))
    assert parents == {name: kind.__bases__[0].__name__ for name, kind in exceptions().items()}


@pytest.mark.parametrize("name", EXIT_CODES)
def test_the_message_is_the_whole_text(name: str) -> None:
    assert str(exceptions()[name]("what, where, how to mend it")) == "what, where, how to mend it"


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("resnet81", ["vgg16", "resnet18", "vit"], " (did you mean 'resnet18'?)"),
        ("lineer", {"linear": 1, "ties": 2}, " (did you mean 'linear'?)"),
        ("zzz", ["vgg16", "resnet18"], ""),
        ("anything", [], ""),
        ("weight", ["weights", "weight"], " (did you mean 'weight'?)"),
    ],
)
def test_suggest_words_the_nearest_name(name: str, known: list[str], expected: str) -> None:
    assert suggest(name, known) == expected


def test_suggest_takes_any_iterable_once() -> None:
    assert suggest("abd", (word for word in ("xyz", "abc"))) == " (did you mean 'abc'?)"
