"""Probes run: small where a network takes any size, and an error that says why where none does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from mergekit_perm import derive, networks
from mergekit_perm.errors import NetworkError
from mergekit_perm.permspec import PermutationSpec

torch.set_num_threads(1)

# The size of the images: 64 where that leaves a map of 2x2; more where it does not, where the
# network has a least size, or where 64 fails; its own where it can be told of no other.
SIZES: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("resnet18", {}, (3, 64, 64)),
    ("resnet18", {"in_chans": 1}, (1, 64, 64)),
    ("shvit_s1", {}, (3, 128, 128)),  # its last map is 1/64 of the image
    ("inception_v3", {}, (3, 128, 128)),  # fails on 64, and convolves over one pixel of 96
    ("mobilevit_xxs", {}, (3, 96, 96)),  # would attend to the only patch of 64
    ("test_vit", {}, (3, 64, 64)),  # built for 160, told of 64
    ("xcit_nano_12_p8_224", {}, (3, 64, 64)),  # said to take 224 alone
    ("convit_tiny", {"depth": 1}, (3, 64, 64)),  # built for 64
    ("efficientformer_l1", {}, (3, 224, 224)),
    ("vit_small_patch14_dinov2", {"depth": 1, "dynamic_img_size": True}, (3, 84, 84)),
    ("test_vit", {"img_size": 48}, (3, 48, 48)),
    ("test_vit", {"dynamic_img_size": True}, (3, 64, 64)),
    ("test_efficientnet", {"features_only": True}, (3, 64, 64)),
    ("resnet_cifar", {"depth": 8}, (3, 32, 32)),
    ("mlp", {"in_features": 9}, (9,)),
]


@pytest.mark.parametrize(("architecture", "options", "shape"), SIZES)
def test_a_probe_is_as_small_as_the_network_allows(
    architecture: str, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    fresh = derive.probe(architecture, options)
    module, inputs = fresh.module, fresh.inputs
    assert inputs.shape == (2, *shape) and not inputs[0].equal(inputs[1])
    with torch.no_grad():
        assert all(leaf.isfinite().all() for leaf in tree_leaves(module(inputs)))


def test_a_spec_has_to_fit_the_smaller_network_too() -> None:
    options = {"depth": 1}
    spec = derive.derive("vit_tiny_patch16_224", options)
    fresh = derive.probe("vit_tiny_patch16_224", options, spec)
    assert fresh.inputs.shape == (2, 3, 64, 64)
    assert fresh.shapes["pos_embed"] == (1, 197, 192)
    assert fresh.module.get_parameter("pos_embed").shape == (1, 17, 192)
    for axis, edge in {"first + 196": 64, "196 + first": 64, "100 + first + 96": 224}.items():
        text = spec.dumps().replace("[1, 197, ", f"[1, {axis}, ")
        by_parts = PermutationSpec.loads(text.replace("groups:\n", "groups:\n  first: 1\n"))
        shape = (2, 3, edge, edge)
        assert derive.probe("vit_tiny_patch16_224", options, by_parts).inputs.shape == shape
        assert derive.verify(by_parts).inputs == [list(shape)]


MODULES = """
import torch
from torch import nn

class Choosy(nn.Module):
    input_shape = (3,)
    def forward(self, x):
        raise ValueError("this network needs\\n two images")

class Paired(nn.Module):
    example_inputs = {"x": torch.ones(2, 3), "y": torch.ones(2, 4)}
    def forward(self, x, y):
        return x @ y
"""


def test_a_network_that_does_not_run_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "choosy_networks.py").write_text(MODULES)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NetworkError) as error:
        derive.probe("choosy_networks:Choosy", {})
    assert str(error.value) == (
        "choosy_networks:Choosy does not run on inputs of shape (2, 3): "
        "ValueError: this network needs two images"
    )
    with pytest.raises(NetworkError, match=r"Paired does not run on its example_inputs: Runtime"):
        derive.probe("choosy_networks:Paired", {})


def test_the_least_edge_is_known_only_where_a_network_takes_several_sizes() -> None:
    def least(architecture: str, **options: Any) -> int | None:
        return networks.least_edge(networks.build(architecture, options, seed=0), options)

    assert least("resnet18") == least("resnet18", features_only=True) == 64
    assert least("halonet26t") == 256
    assert least("test_vit") is None
    assert least("mlp") is None
