"""The same run on an accelerator; needs one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mergekit_perm import pipeline
from mergekit_perm.spec import RunSpec


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_accelerator_gives_the_figures_of_the_cpu(small: Callable[..., RunSpec]) -> None:
    pipeline.run(small())
    read = small(
        *(f"networks.{n}={{checkpoint: out/small/networks/{n}.safetensors}}" for n in "abc"),
        "name=read",
    )
    cpu = pipeline.run(read, out="cpu", device="cpu")
    cuda = pipeline.run(read, out="cuda", device="cuda")
    assert cuda.provenance.device.startswith("cuda")
    # Losses differ by rounding; of 450 test examples two may be told apart the other way by it.
    apart = {"loss": 1e-4, "error": 2 / 450}
    for one, other in zip(cpu.barriers, cuda.barriers, strict=True):
        assert other.metric == one.metric
        assert other.barrier == pytest.approx(one.barrier, abs=apart[one.metric])
