"""What is freed when a device runs out of memory."""

from __future__ import annotations

import sys
import weakref

import pytest
import torch

from mergekit_perm.evaluate import memory

CPU = torch.device("cpu")


def test_memory_is_given_back_when_nothing_holds_it_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    freed: list[bool] = []

    def work() -> None:
        tensor = torch.zeros(3)
        held.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("out of memory")

    def empty() -> None:
        freed.append(held[0]() is None and sys.exc_info() == (None, None, None))

    monkeypatch.setattr(torch.cuda, "empty_cache", empty)
    found = memory.attempt(work, torch.device("cuda"))
    assert isinstance(found, torch.OutOfMemoryError)
    assert freed == [True]


@pytest.mark.parametrize("chained", ["context", "cause", "a cause of before"])
def test_errors_before_that_hold_no_memory_either(chained: str) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def inner() -> None:
        tensor = torch.zeros(3)
        held.append(weakref.ref(tensor))
        raise KeyError("inner")

    def caught() -> KeyError:
        try:
            inner()
        except KeyError as error:
            return error
        raise AssertionError

    def work() -> None:
        if chained == "a cause of before":
            raise torch.OutOfMemoryError("out of memory") from caught()
        try:
            inner()
        except KeyError as error:
            cause = error if chained == "cause" else None
            raise torch.OutOfMemoryError("out of memory") from cause

    found = memory.attempt(work, CPU)
    assert isinstance(found, torch.OutOfMemoryError)
    assert held[0]() is None
    assert isinstance(found.__cause__ or found.__context__, KeyError)


def test_an_error_that_is_being_handled_meanwhile_keeps_its_traceback() -> None:
    def work() -> None:
        raise torch.OutOfMemoryError("out of memory")

    try:
        raise KeyError("outer")
    except KeyError as outer:
        found = memory.attempt(work, CPU)
        assert isinstance(found, torch.OutOfMemoryError) and found.__context__ is outer
        assert (found.__traceback__, outer.__traceback__ is None) == (None, False)
