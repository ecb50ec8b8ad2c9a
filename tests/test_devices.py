from __future__ import annotations

import pytest
import torch

from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate import device


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    def pretend(*, cuda: int, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(2, True, "cuda:0"), (0, True, "mps"), (0, False, "cpu")],
)
def test_auto_prefers_cuda_then_mps(machine, cuda: int, mps: bool, expected: str) -> None:
    machine(cuda=cuda, mps=mps)

    assert device("auto") == torch.device(expected)


def test_a_device_that_is_there(machine) -> None:
    machine(cuda=2, mps=True)

    for name in ("cpu", "cuda", "cuda:0", "cuda:1", "mps"):
        assert device(name) == torch.device(name)


def test_a_device_of_pytorch_is_taken_as_it_is(machine) -> None:
    machine(cuda=0, mps=False)

    for given in (torch.device("cpu"), torch.device("cpu", 0), torch.device("mps", 0)):
        assert device(given) is given


@pytest.mark.parametrize(
    ("name", "cuda", "message"),
    [
        ("cuda", 0, "device 'cuda' is not available; there is cpu"),
        ("mps", 0, "device 'mps' is not available; there is cpu"),
        ("cuda:2", 2, "device 'cuda:2' is not available; there is cuda:0, cuda:1, cpu"),
        (
            "cudo",
            1,
            "no device 'cudo' (did you mean 'cuda'?); choose auto, cpu, cuda, cuda:N or mps",
        ),
        (
            "cuda:x",
            0,
            "no device 'cuda:x' (did you mean 'cuda'?); choose auto, cpu, cuda, cuda:N or mps",
        ),
        ("xla", 0, "no device 'xla'; choose auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_a_device_that_is_not(machine, name: str, cuda: int, message: str) -> None:
    machine(cuda=cuda, mps=False)

    with pytest.raises(EvaluationError) as error:
        device(name)

    assert str(error.value) == message
