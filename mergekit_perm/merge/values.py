"""The forms that the value of an option may have; nothing here loads torch.

A value is a number (true or false for some options); a gradient, which is a list of numbers over
the depth of the network; or filters, a list of ``{filter, value}`` by tensor name. An option with a
value for each network takes a mapping from network to any of these as well.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_perm.errors import suggest
from mergekit_perm.merge.options import Option

Keys = tuple[str | int, ...]
Plain = float | tuple[float, ...]

_WANTED = {"number": "a number", "whole": "a whole number", "flag": "true or false"}
NOTHING: Any = object()


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is wrong with a value.

    Attributes:
        path: from the value to the place, as keys and indices.
        message: what was wanted, or what is wrong.
        value: what was found, if the message has to say so; `NOTHING` otherwise.
        hint: what to write instead.
        key: the key at the end of the path is wrong, not what it holds.
        network: the message is about this network, which is none of those that are merged.
    """

    path: Keys
    message: str
    value: Any = NOTHING
    hint: str = ""
    key: bool = False
    network: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of a list of filters: a pattern (None matches every name) and its value."""

    pattern: str | None
    value: Plain

    def matches(self, name: str) -> bool:
        """Tell whether the tensor called `name` is meant."""
        if self.pattern is None:
            return True
        kind, _, rest = self.pattern.partition(":")
        if kind == "glob":
            return fnmatch.fnmatchcase(name, rest)
        if kind == "regex":
            return re.search(rest, name) is not None
        return self.pattern in name


@dataclass(frozen=True, slots=True)
class Setting:
    """One option of one network: its rules, of which the first that matches counts."""

    rules: tuple[Rule, ...]
    default: float | None

    def at(self, name: str, depth: float) -> float | None:
        """Return the value for the tensor called `name`, which sits at `depth` (0 to 1)."""
        for rule in self.rules:
            if rule.matches(name):
                value = rule.value
                return interpolated(value, depth) if isinstance(value, tuple) else value
        return self.default

    def idle(self, names: Sequence[str]) -> list[tuple[int, str]]:
        """Return what filters that decide about none of `names` are at, and why."""
        found, left = [], list(names)
        for index, rule in enumerate(self.rules):
            if rule.pattern is not None and not any(map(rule.matches, left)):
                matched = any(map(rule.matches, names))
                why = (
                    "matches only tensors that filters before it have"
                    if matched
                    else (f"matches no tensor{suggest(rule.pattern, _pieces(names))}")
                )
                found.append((index, f"the filter '{rule.pattern}' {why}"))
            left = [name for name in left if not rule.matches(name)]
        return found


def flaws(value: Any, option: Option, networks: Sequence[str], *, name: str) -> Iterator[Flaw]:
    """Yield everything wrong with the `value` of an option.

    Args:
        value: as it was given.
        option: which.
        networks: that are merged, without the base model.
        name: of the option.
    """
    if not isinstance(value, Mapping):
        yield from _own_flaws(value, option, wanted=_forms(option))
        return
    if not option.each:
        yield Flaw((), f"expected {_forms(option)}", value)
        return
    strangers = [network for network in value if network not in networks]
    for network in strangers:
        yield Flaw((network,), f"no network '{network}'", key=True, network=str(network))
    for network, own in value.items():
        for flaw in _own_flaws(own, option, wanted=_own_forms(option)):
            yield Flaw((network, *flaw.path), flaw.message, flaw.value, flaw.hint, flaw.key)
    without = [network for network in networks if network not in value]
    if without and not strangers:
        note = ", or 0 to leave it out" if name == "weight" else ""
        hint = f"add {without[0]}: {1.0 if option.default is None else option.default}{note}"
        yield Flaw((), f"no {name} for network '{without[0]}'", hint=hint, key=True)


def setting(value: Any, option: Option) -> Setting:
    """Return a sound `value` of an option (for one network) as rules."""
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        rules = tuple(Rule(_pattern(item.get("filter")), _plain(item["value"])) for item in value)
        return Setting(rules, option.default)
    return Setting((Rule(None, _plain(value)),), option.default)


def interpolated(points: Sequence[float], depth: float) -> float:
    """Return the value at `depth` (0 to 1) of a line through `points`, evenly spaced over it."""
    position = depth * (len(points) - 1)
    index = min(int(position), max(len(points) - 2, 0))
    if len(points) == 1 or position == index:
        return float(points[index])
    share = position - index
    return points[index] * (1 - share) + points[index + 1] * share


def _pattern(text: str | None) -> str | None:
    return None if text in (None, "*") else text


def _plain(value: Any) -> Plain:
    return tuple(map(float, value)) if isinstance(value, list | tuple) else value


def _pieces(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(piece for name in names for piece in (name, *name.split("."))))


def _forms(option: Option) -> str:
    if not option.each:
        return _own_forms(option)
    return f"{_own_forms(option, last='')}, or a mapping from network to these"


def _own_forms(option: Option, last: str = "or ") -> str:
    gradient = ", a list of numbers over depth" if option.kind == "number" else ""
    return f"{_WANTED[option.kind]}{gradient}, {last}a list of {{filter, value}}"


def _own_flaws(value: Any, option: Option, *, wanted: str) -> Iterator[Flaw]:
    """Yield what is wrong with a value for one network."""
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        yield from _filter_flaws(value, option)
    else:
        yield from _plain_flaws(value, option, wanted)


def _filter_flaws(items: Sequence[Any], option: Option) -> Iterator[Flaw]:
    last = None
    for index, item in enumerate(items):
        if not isinstance(item, Mapping):
            yield Flaw((index,), "expected a mapping with filter and value", item)
            continue
        yield from (
            Flaw((index, *flaw.path), flaw.message, flaw.value, flaw.hint, flaw.key)
            for flaw in _item_flaws(item, option)
        )
        if last is not None:
            message = f"this is never reached: entry {last} is for every tensor"
            yield Flaw((index,), message, hint="put it before that one, or remove it")
        elif item.get("filter") in (None, "*"):
            last = index


def _item_flaws(item: Mapping[Any, Any], option: Option) -> Iterator[Flaw]:
    for key in item:
        if key not in ("filter", "value"):
            hint = suggest(str(key), ("filter", "value")).strip(" ()")
            yield Flaw(
                (key,), f"unknown key '{key}'", hint=hint or "known: filter, value", key=True
            )
    if "value" in item:
        wanted = _WANTED[option.kind]
        wanted += " or a list of numbers over depth" if option.kind == "number" else ""
        for flaw in _plain_flaws(item["value"], option, wanted):
            yield Flaw(("value", *flaw.path), flaw.message, flaw.value, flaw.hint)
    elif not any(suggest(str(key), ["value"]) for key in item):
        hint = "add it, for example: value: 0.5"
        yield Flaw((), "the field 'value' is missing", hint=hint, key=True)
    text = item.get("filter")
    if text is not None and (not isinstance(text, str) or not text):
        message = "expected a part of tensor names, glob:PATTERN or regex:PATTERN"
        yield Flaw(("filter",), message, text)
    elif text and text.startswith("regex:"):
        try:
            re.compile(text.removeprefix("regex:"))
        except re.error as error:
            yield Flaw(("filter",), f"'{text}' is no regular expression: {error}")


def _plain_flaws(value: Any, option: Option, wanted: str) -> Iterator[Flaw]:
    """Yield what is wrong with a single value, or a gradient."""
    if isinstance(value, list | tuple) and option.kind == "number" and value:
        for index, one in enumerate(value):
            yield from (
                Flaw((index,), flaw.message, flaw.value)
                for flaw in _single(one, option, "a number")
            )
    else:
        yield from _single(value, option, wanted)


def _single(value: Any, option: Option, wanted: str) -> Iterator[Flaw]:
    fits = {
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "whole": isinstance(value, int) and not isinstance(value, bool),
        "flag": isinstance(value, bool),
    }[option.kind]
    if not fits:
        yield Flaw((), f"expected {wanted}", value)
    elif not math.isfinite(value):
        yield Flaw((), "expected a finite number", value)
    elif not option.least <= value <= option.most:
        yield Flaw((), f"expected {_WANTED[option.kind]} {_bounds(option)}", value)


def _bounds(option: Option) -> str:
    if option.most == math.inf:
        return f"of at least {option.least:g}"
    if option.least == -math.inf:
        return f"of at most {option.most:g}"
    return f"from {option.least:g} to {option.most:g}"
