"""What is loaded when: timm with the first network, and not with names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mergekit_perm import networks


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_names_need_no_timm() -> None:
    script = (
        "import sys\n"
        "from mergekit_perm import networks\n"
        "assert networks.is_function('a.b:c') and not networks.is_function('resnet18')\n"
        "assert networks.VERSION and 'mlp' in networks.BUILTINS\n"
        "assert networks.without_weight_options({'pretrained': True, 'a': 1}) == {'a': 1}\n"
        "assert 'timm' not in sys.modules\n"
        "networks.build\n"
        "import timm\n"
        "assert timm.__version__ == networks.VERSION\n"
    )
    run(script)


def test_one_import_registers_the_built_in_networks() -> None:
    script = (
        "import timm\n"
        "import mergekit_perm.networks.builtin\n"
        "print(*(timm.is_model(name) for name in ('mlp', 'vgg', 'resnet_cifar')))\n"
    )
    assert run(script) == "True True True"


def test_all_names_are_there() -> None:
    assert dir(networks) == sorted(networks.__all__)
    for name in networks.__all__:
        assert getattr(networks, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        networks.nothing  # noqa: B018
