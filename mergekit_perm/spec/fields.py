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
from mergekit_perm.spec.methods import ALIGNMENT_METHODS
from mergekit_perm.spec.recipes import DATA_RECIPES, RECIPES, known_methods

# Marks a branch of a union in the location of pydantic's errors. A key of a spec that is text one
# can type is none of these, so that `problems` can take them out again without touching a user's.
_TAGS = {
    bool: "\0bool",
    int: "\0number",
    float: "\0number",
    str: "\0text",
    dict: "\0mapping",
    list: "\0list",
    tuple: "\0list",  # as a model has it that is written out again
}
UNION_TAGS = frozenset(_TAGS.values())

PRUNED = "prune"
"""What a level of pruning is called, before its number."""

_Item = TypeVar("_Item", bound=Hashable)


def expected(wanted: str) -> PydanticCustomError:
    """Return the error of a value of the wrong kind: ``expected {wanted}, found ...``."""
    return PydanticCustomError("expected", "{wanted}", {"wanted": wanted})


def one_of(known: Iterable[str], *, note: str = "") -> PydanticCustomError:
    """Return the error of text that is none of the `known` choices."""
    return PydanticCustomError("one_of", "one of a few", {"known": [*known], "note": note})


def refused(message: str, *, hint: str = "") -> PydanticCustomError:
    """Return the error with just this `message`."""
    return PydanticCustomError("refused", "{message}", {"message": message, "hint": hint})


def _by_kind(wanted: str) -> Discriminator:
    """Choose the branch of a union by the kind of value, so that only one reports."""
    return Discriminator(
        lambda value: _TAGS.get(type(value)),
        custom_error_type="expected",
        custom_error_message="{wanted}",
        custom_error_context={"wanted": wanted},
    )


def _name(text: str) -> str:
    # It becomes a file name, so no separators and no leading dot.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
        raise expected(
            "a name of letters, digits, '.', '_', '-' that starts with a letter or digit"
        )
    return text


def distinct(items: tuple[_Item, ...]) -> tuple[_Item, ...]:
    """Return `items`, of which no two may be the same."""
    for item in items:
        if items.count(item) > 1:
            raise refused(f"'{item}' is listed twice", hint="remove one of the two")
    return items


def _two(items: Any) -> Any:
    if not isinstance(items, list) or len(items) != 2:
        raise expected("a list of two network names")
    return items


def _step(value: Any) -> str:
    if type(value) is int and value >= 0:
        return str(value)
    if isinstance(value, str) and re.fullmatch(rf"end|(0|({PRUNED})?[1-9][0-9]*)", value):
        return value
    raise expected(_STEP)


def _found(value: Any) -> tuple[str, ...]:
    """Return ``none``, ``all``, one step, or a list of steps, as steps."""
    if value in ("none", "all"):
        return (value,)
    if value in (["none"], ["all"], ("none",), ("all",)):  # as it is written out
        return tuple(value)
    several = value if isinstance(value, list | tuple) else [value]
    try:
        steps = tuple(_step(each) for each in several)
    except PydanticCustomError:
        steps = ()
    if not steps:
        raise expected("none, all, or a list of epochs and levels")
    return distinct(steps)


def _word(word: str, wanted: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value != word:
            raise expected(wanted)
        return value

    return check


def _several(steps: tuple[_Item, ...]) -> tuple[_Item, ...]:
    if len(steps) < 2:
        raise refused("a list is for two epochs or more", hint="write one epoch without brackets")
    return distinct(steps)


def _choice(known: Sequence[str], elsewhere: Sequence[str] = ()) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text in known:
            return text
        note = "is known to mergekit, not provided here" if text in elsewhere else ""
        raise one_of(known, note=note)

    return check


def _recipe(text: str) -> str:
    # Entry points are looked for only where a name is none of this package.
    return (
        text
        if text in RECIPES or text in DATA_RECIPES
        else _choice(known_methods(), MERGEKIT_METHODS)(text)
    )


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?|cuda:[0-9]+(,cuda:[0-9]+)+", text):
        raise one_of(("auto", "cpu", "mps", "cuda", "cuda:0", "cuda:0,cuda:1"))
    return text


Text = Annotated[str, StringConstraints(min_length=1)]
Name = Annotated[str, AfterValidator(_name)]
Names = Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(distinct)]
Count = Annotated[int, Field(ge=1)]
AtLeastTwo = Annotated[int, Field(ge=2)]
Size = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]

Ema = Annotated[
    Annotated[bool, Tag("\0bool")] | Annotated[Literal["auto"], Tag("\0text")],
    _by_kind("true, false or auto"),
]
BatchSize = Annotated[
    Annotated[Count, Tag("\0number")] | Annotated[Literal["auto"], Tag("\0text")],
    _by_kind("a whole number of examples, or auto"),
]
# Behind a validator pydantic sees Python's list, which it takes for a tuple only when not strict.
Pair = Annotated[tuple[Text, Text], Field(strict=False), BeforeValidator(_two)]
Pairs = Annotated[
    Annotated[Literal["all", "none", "spokes", "far_edges"], Tag("\0text")]
    | Annotated[tuple[Pair, ...], Tag("\0list")],
    _by_kind("all, none, spokes, far_edges, or a list of pairs [a, b]"),
]

# One checkpoint of a sequence, as text.
_STEP = "an epoch, end, or a level such as prune3"
Step = Annotated[str, BeforeValidator(_step)]
Epochs = Annotated[tuple[Size, ...], AfterValidator(distinct)]
_STEPS = "all, or a list of epochs and levels"
Steps = Annotated[
    Annotated[Literal["all"], BeforeValidator(_word("all", _STEPS)), Tag("\0text")]
    | Annotated[tuple[Step, ...], Field(min_length=1), AfterValidator(distinct), Tag("\0list")],
    _by_kind(_STEPS),
]
OneOrMoreSteps = Annotated[
    Annotated[Step, Tag("\0number")]
    | Annotated[Step, Tag("\0text")]
    | Annotated[tuple[Step, ...], AfterValidator(_several), Tag("\0list")],
    _by_kind(f"{_STEP}, or a list of them"),
]

Found = Annotated[tuple[str, ...], Field(strict=False), BeforeValidator(_found)]

AlignmentMethod = Annotated[str, AfterValidator(_choice(ALIGNMENT_METHODS))]
MergeMethod = Annotated[str, AfterValidator(_recipe)]
Device = Annotated[str, AfterValidator(_device)]
Calibration = Literal[
    "none",
    "batch_norm",
    "repair",
    "temperature",
    "batch_norm+temperature",
    "repair+temperature",
]
Control = Literal["random_permutation", "planted_copy"]
Controls = Annotated[tuple[Control, ...], AfterValidator(distinct)]
Dtype = Literal["float64", "float32", "float16", "bfloat16"]
Calibrations = Annotated[tuple[Calibration, ...], Field(min_length=1), AfterValidator(distinct)]
