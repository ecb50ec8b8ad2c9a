"""The greedy soup: who joins, in which order, and what comes out."""

from __future__ import annotations

import math

import pytest
import torch

from mergekit_perm.errors import MergeError
from mergekit_perm.merge.greedy_soup import greedy_soup

State = dict[str, torch.Tensor]


def at(value: float) -> State:
    return {
        "w": torch.tensor([value]),
        "steps": torch.tensor(int(abs(value)) if value == value else 0),
    }


def loss(state: State) -> float:
    """How far the weight is from 1."""
    return abs(float(state["w"]) - 1.0)


def test_networks_join_that_lower_the_loss() -> None:
    # Alone: b .25, c .5, a 3, d 10. With c the mean is 1.125, with a it would be 2.08.
    states = {"a": at(4.0), "b": at(1.25), "c": at(0.5), "d": at(-9.0)}
    soup = greedy_soup(states, loss=loss)
    assert soup.networks == ("b", "c")
    assert float(soup.state["w"]) == 0.875
    assert list(soup.losses) == ["b", "c", "a", "d"]
    assert soup.losses["b"] == 0.25 and soup.losses["c"] == 0.125
    assert soup.losses["a"] == pytest.approx((0.875 * 2 + 4) / 3 - 1)


def test_one_that_leaves_the_loss_as_it_is_does_not_join() -> None:
    soup = greedy_soup({"a": at(2.0), "b": at(2.0)}, loss=loss)
    assert soup.networks == ("a",)
    assert float(soup.state["w"]) == 2.0 and int(soup.state["steps"]) == 2


def test_the_mean_of_all_is_their_mean() -> None:
    values = [3.0, -1.5, 2.75, -0.75]
    soup = greedy_soup({str(i): at(v) for i, v in enumerate(values)}, loss=loss)
    chosen = [values[int(name)] for name in soup.networks]
    assert float(soup.state["w"]) == pytest.approx(sum(chosen) / len(chosen))
    assert min(soup.losses.values()) == pytest.approx(loss(soup.state))


def test_losses_that_are_no_numbers_come_last() -> None:
    states = {"a": at(math.nan), "b": at(1.5)}
    soup = greedy_soup(states, loss=loss)
    assert soup.networks == ("b",)
    with pytest.raises(MergeError, match="no network has a finite loss"):
        greedy_soup({"a": at(math.nan)}, loss=loss)


def test_no_networks() -> None:
    with pytest.raises(MergeError, match="greedy_soup: there are no networks"):
        greedy_soup({}, loss=loss)
