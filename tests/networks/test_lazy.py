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
        "print(networks.is_function('a.b:c'), networks.is_function('resnet18'))\n"
        "print(networks.without_weight_options({'pretrained': True, 'a': 1}), networks.BUILTINS)\n"
        "print(networks.VERSION, 'timm' in sys.modules)\n"
        "networks.build\n"
        "print(sys.modules['timm'].__version__)\n"
    )
    version = networks.VERSION
    assert run(script).splitlines() == [
        "True False",
        "{'a': 1} ('mlp', 'vgg', 'resnet_cifar')",
        f"{version} False",
        version,
    ]


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
