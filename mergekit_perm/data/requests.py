"""What is asked of a source of data, and checking the options that come with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_perm.errors import DataError, suggest
from mergekit_perm.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True)
class Request:
    """One call of `load`, passed to the source that serves it.

    Attributes:
        source: the whole source, ``torchvision:MNIST``.
        name: what follows the colon, ``MNIST``.
        root: the folder given, if any.
        options: options of the source.
        preprocessing: what the network was made for, if it says so.
        splits: names of the splits that are wanted, without repetition.
    """

    source: str
    name: str
    root: Path | None
    options: Mapping[str, Any]
    preprocessing: Preprocessing | None
    splits: tuple[str, ...]

    def error(self, message: str) -> DataError:
        """Return the error `message`, with the source named first."""
        return DataError(f"{self.source}: {message}")

    def check_options(self, known: Iterable[str]) -> None:
        """Raise DataError for the first option that is not among `known`."""
        names = sorted(known)
        for option in self.options:
            if option not in names:
                raise self.error(
                    f"no option '{option}'{suggest(option, names)}; it has {', '.join(names)}"
                )

    def check_splits(self, known: Sequence[str]) -> None:
        """Raise DataError for the first split that is not among `known`."""
        for name in self.splits:
            if name not in known:
                hint = suggest(name, known)
                raise self.error(f"no split '{name}'{hint}; it has {', '.join(known)}")

    def whole(self, option: str, *, least: int = 1) -> int | None:
        """Return a whole-number option, None when it is not given."""
        value = self.options.get(option)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.error(f"{option} is {value!r}, not a whole number of {least} or more")
        return value

    def size(self) -> tuple[int, int] | None:
        """Return the option `size` as (height, width): one number, or a list of two."""
        value = self.options.get("size")
        pair = [value, value] if isinstance(value, int) else value
        if pair is None:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(pair, Sequence)
            or len(pair) != 2
            or not all(isinstance(edge, int) and edge > 0 for edge in pair)
        ):
            raise self.error(f"size is {value!r}, not an edge such as 32 or a pair [32, 48]")
        return (pair[0], pair[1])

    def numbers(self, option: str) -> tuple[float, ...] | None:
        """Return an option that is a list of numbers, one per channel."""
        value = self.options.get(option)
        if value is None:
            return None
        if (
            not isinstance(value, Sequence)
            or isinstance(value, str)
            or not value
            or not all(
                isinstance(number, int | float) and not isinstance(number, bool) for number in value
            )
        ):
            raise self.error(f"{option} is {value!r}, not a list of one number per channel")
        return tuple(float(number) for number in value)

    def share(self, option: str) -> float | None:
        """Return an option that is a number above 0 and at most 1."""
        value = self.options.get(option)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise self.error(f"{option} is {value!r}, not a number above 0 and at most 1")
        return float(value)

    def channels(self) -> int | None:
        """Return the option `channels`, or what the network takes: 1, 3 or None for either."""
        value = self.whole("channels")
        if value is None and self.preprocessing is not None:
            value = self.preprocessing.input_size[0]
        if value not in (None, 1, 3):
            raise self.error(f"images have 1 or 3 channels, the network takes {value}")
        return value
