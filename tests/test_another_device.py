"""What `on_another_device` tests, in a process of its own.

PyTorch counts its devices when gradients are first asked for: the simulated one has to be there
before that, and is not to be there for other tests.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch lets Python make no device",
)
@pytest.mark.timeout(600)
def test_everything_that_computes_does_so_on_the_device_it_is_given() -> None:
    tests = Path(__file__).with_name("on_another_device.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tests.parents[1])
    assert done.returncode == 0, done.stdout[-8000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 40, done.stdout[-2000:]
