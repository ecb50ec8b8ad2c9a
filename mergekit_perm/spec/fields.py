"""The kinds of value that the sections of a run spec are made of.

Where pydantic's own message would not say what to write, a validator raises one of three errors
that `problems` knows: `expected`, `one_of` and `refused`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, StringConstraints, Tag
from pydantic_core import PydanticCustomError

from mergekit_perm.mergekit import MERGEKIT_METHODS
from mergekit_perm.spec.methods import ALIGNMENT_METHODS, MERGE_METHODS

# Marks a branch of a union in the location of pydantic's errors. No key of a spec can be one of
# these, so that `problems` can take them out again without touching a user's key.
_TAGS = {
    bool: "<bool>",
    int: "<number>",
    float: "<number>",
    str: "<text>",
    dict: "<mapping>",
    list: "<list>",
}
UNION_TAGS = frozenset(_TAGS.values())

_Item = TypeVar("_Item", bound=Hashable)


def expected(wanted: str) -> PydanticCustomError:
    """Return the error of a value of the wrong kind: ``expected {wanted}, found ...``."""
    return PydanticCustomError("expected", "{wanted}", {"wanted": wanted, "list_hint": ""})


def one_of(known: Iterable[str], *, note: str = "") -> PydanticCustomError:
    """Return the error of text that is none of the `known` choices."""
    return PydanticCustomError("one_of", "one of a few", {"known": [*known], "note": note})


def refused(message: str, *, hint: str = "") -> PydanticCustomError:
    """Return the error with just this `message`."""
    return PydanticCustomError("refused", "{message}", {"message": message, "hint": hint})


def _by_kind(wanted: str, *, list_hint: str = "") -> Discriminator:
    """Choose the branch of a union by the kind of value, so that only one reports."""
    return Discriminator(
        lambda value: _TAGS.get(type(value)),
        custom_error_type="expected",
        custom_error_message="{wanted}",
        custom_error_context={"wanted": wanted, "list_hint": list_hint},
    )


def _name(text: str) -> str:
    # It becomes a file name, so no separators and no leading dot.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
        raise expected(
            "a name of letters, digits, '.', '_', '-' that starts with a letter or digit"
        )
    return text


def _distinct(items: tuple[_Item, ...]) -> tuple[_Item, ...]:
    for item in items:
        if items.count(item) > 1:
            raise refused(f"'{item}' is listed twice", hint="remove one of the two")
    return items


def _two(items: Any) -> Any:
    if not isinstance(items, list) or len(items) != 2:
        raise expected("a list of two network names")
    return items


def _choice(known: Sequence[str], elsewhere: Sequence[str] = ()) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text in known:
            return text
        note = "is known to mergekit, not provided here" if text in elsewhere else ""
        raise one_of(known, note=note)

    return check


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?|cuda:[0-9]+(,cuda:[0-9]+)+", text):
        raise one_of(("auto", "cpu", "mps", "cuda", "cuda:0", "cuda:0,cuda:1"))
    return text


Text = Annotated[str, StringConstraints(min_length=1)]
Name = Annotated[str, AfterValidator(_name)]
Names = Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(_distinct)]
Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]

Ema = Annotated[
    Annotated[bool, Tag("<bool>")] | Annotated[Literal["auto"], Tag("<text>")],
    _by_kind("true, false or auto"),
]
BatchSize = Annotated[
    Annotated[Count, Tag("<number>")] | Annotated[Literal["auto"], Tag("<text>")],
    _by_kind("a whole number of examples, or auto"),
]
Weight = Annotated[
    Annotated[float, Tag("<number>")] | Annotated[dict[str, float], Tag("<mapping>")],
    _by_kind(
        "a number, or a mapping from network to number",
        list_hint="the gradients and filters of mergekit are not provided here",
    ),
]
# Behind a validator pydantic sees Python's list, which it takes for a tuple only when not strict.
Pair = Annotated[tuple[Text, Text], Field(strict=False), BeforeValidator(_two)]
Pairs = Annotated[
    Annotated[Literal["all", "none", "spokes", "far_edges"], Tag("<text>")]
    | Annotated[tuple[Pair, ...], Tag("<list>")],
    _by_kind("all, none, spokes, far_edges, or a list of pairs [a, b]"),
]

AlignmentMethod = Annotated[str, AfterValidator(_choice(ALIGNMENT_METHODS))]
MergeMethod = Annotated[str, AfterValidator(_choice(MERGE_METHODS, MERGEKIT_METHODS))]
Device = Annotated[str, AfterValidator(_device)]
Calibration = Literal["none", "batch_norm"]
Calibrations = Annotated[tuple[Calibration, ...], Field(min_length=1), AfterValidator(_distinct)]
