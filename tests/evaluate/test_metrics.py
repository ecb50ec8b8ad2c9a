from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate import Metrics, measure


class Fixed(nn.Module):
    """Gives the inputs back as logits, whatever they are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def examples(n: int = 37) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return 4 * torch.randn(n, 5, generator=generator), torch.randint(
        0, 5, (n,), generator=generator
    )


def test_loss_and_error_are_those_worked_out_by_hand(split) -> None:
    x, y = examples()
    logits, labels = x.numpy().astype(np.float64), y.numpy()
    spread = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(37), labels]

    found = measure(Fixed(), split(x, y), batch_size=8)

    assert found.loss == pytest.approx(spread.mean(), rel=1e-12)
    assert found.error == (logits.argmax(axis=1) != labels).sum() / 37
    assert found.n == 37


def test_the_batch_size_does_not_matter(split) -> None:
    x, y = examples()
    whole = measure(Fixed(), split(x, y))

    for batch_size in (1, 2, 36, 37):
        found = measure(Fixed(), split(x, y), batch_size=batch_size)
        assert found.loss == pytest.approx(whole.loss, rel=1e-14)
        assert (found.error, found.n) == (whole.error, 37)


def test_an_answer_of_nans_is_wrong_and_its_loss_is_nan(split) -> None:
    x = torch.tensor([[math.nan, math.nan], [2.0, 1.0]])

    found = measure(Fixed(), split(x, torch.tensor([0, 0])))

    assert math.isnan(found.loss)
    assert found.error == 0.5


def test_an_infinite_loss_is_reported_as_such(split) -> None:
    x = torch.tensor([[-math.inf, 0.0]])

    assert measure(Fixed(), split(x, torch.tensor([0]))) == Metrics(math.inf, 1.0, 1)


def test_eval_mode_is_used_and_every_flag_put_back(split) -> None:
    x, y = examples()
    module = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(5), nn.Dropout(0.9))
    module[2].eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}

    found = measure(module, split(x, y))

    assert found == measure(module.eval(), split(x, y))
    module.train()
    module[2].eval()
    measure(module, split(x, y))
    assert [layer.training for layer in module] == [True, True, False]
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_tensors_can_still_be_trained_on_afterwards(split) -> None:
    x, y = examples()
    module, examples_split = nn.Linear(5, 5), split(x, y)
    measure(module, examples_split)

    inputs, labels = next(examples_split.batches(4))
    nn.functional.cross_entropy(module(inputs), labels).backward()

    assert module.weight.grad is not None and module.weight.grad.abs().sum() > 0


def test_outputs_that_are_no_logits_are_refused(split) -> None:
    with pytest.raises(EvaluationError) as error:
        measure(Fixed(), split(torch.zeros(3, 2, 2), torch.zeros(3, dtype=torch.int64)))
    assert str(error.value) == (
        "the network gives (3, 2, 2) for 3 examples, but logits of shape (examples, classes) "
        "are wanted"
    )


def test_labels_without_a_logit_are_refused(split) -> None:
    with pytest.raises(EvaluationError) as error:
        measure(Fixed(), split(torch.zeros(3, 4), torch.tensor([0, 9, 1])))
    assert str(error.value) == (
        "label 9 occurs, but the network gives 4 logits, for labels 0 to 3; "
        "set num_classes to that of the data"
    )
