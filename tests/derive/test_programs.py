"""Random programs: whatever spec is derived, its group leaves the function as it is."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings

from mergekit_perm.derive import derivation
from tests.derive.programs import INPUT, Program, programs

torch.set_num_threads(1)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(programs())
def test_derived_groups_preserve_the_function(program: Program) -> None:
    assert difference(program) < 1e-9


def difference(program: Program) -> float:
    """Return how far random members of the derived group move the outputs, at most."""
    spec = derivation(program, inputs=torch.zeros(INPUT)).spec
    generator = torch.Generator().manual_seed(0)
    program.double().eval()
    with torch.no_grad():
        for tensor in [*program.parameters(), *program.buffers()]:
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                # Buffers are variances, which are positive.
                tensor.copy_(3 * noise - 1.5 if tensor.requires_grad else noise + 0.5)
        state = {name: value.clone() for name, value in program.state_dict().items()}
        x = torch.randn(INPUT, generator=generator, dtype=torch.float64)
        expected, largest = program(x), 0.0
        source = np.random.default_rng(0)
        for _ in range(2):
            program.load_state_dict(spec.apply(spec.random(generator=source), state))
            largest = max(largest, float((program(x) - expected).abs().max()))
    return largest / float(expected.abs().max())
