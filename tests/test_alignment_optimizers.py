"""Optimizers, averaged copies and whole training checkpoints move with their networks."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.optim
import torch
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import nn
from torch.nn import functional

from mergekit_perm import checkpoints, derive, networks
from mergekit_perm.alignment import Alignment, permute_file
from mergekit_perm.alignment.contents import permute_content
from mergekit_perm.alignment.optimizers import parameter_names
from mergekit_perm.errors import CheckpointError, PermutationSpecError
from mergekit_perm.permspec import PermutationSpec

torch.set_num_threads(1)

MLP = {"in_features": 6, "hidden": [7, 5], "num_classes": 3}
RESNET = {"depth": 8, "width": 4}

Optimizer = torch.optim.Optimizer
Make = Callable[[nn.Module], Optimizer]
State = dict[str, torch.Tensor]


def built(name: str, options: dict[str, Any], seed: int = 0) -> nn.Module:
    return networks.build(name, options, seed=seed).double()


def alignment(name: str, options: dict[str, Any], seed: int = 0) -> Alignment:
    text = networks.permutation_spec_text(name, options)
    assert text is not None
    spec = PermutationSpec.loads(text).bind(checkpoints.shapes(built(name, options)))
    return Alignment(spec.random(generator=np.random.default_rng(seed)), spec)


def train(
    network: nn.Module, optimizer: Optimizer, shape: tuple[int, ...], *, seed: int, steps: int = 3
) -> None:
    generator = torch.Generator().manual_seed(seed)
    network.train()
    for _ in range(steps):
        x = torch.randn(8, *shape, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (8,), generator=generator)
        optimizer.zero_grad()
        functional.cross_entropy(network(x), y).backward()
        optimizer.step()


def names_of(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_parameters()]


def distance(one: State, other: State) -> float:
    return max(float((one[n].double() - other[n].double()).abs().max()) for n in one)


OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda n: torch.optim.SGD(n.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda n: torch.optim.Adam(n.parameters(), lr=0.01),
    "amsgrad": lambda n: torch.optim.AdamW(n.parameters(), lr=0.01, amsgrad=True),
    "rmsprop": lambda n: torch.optim.RMSprop(n.parameters(), lr=0.01, momentum=0.9, centered=True),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [("mlp", MLP, (6,)), ("resnet_cifar", {**RESNET, "num_classes": 3}, (3, 8, 8))],
)
def test_training_goes_on_as_if_nothing_had_been_permuted(
    make: Make, name: str, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    p = alignment(name, options)
    network = built(name, options)
    optimizer = make(network)
    train(network, optimizer, shape, seed=1)
    twin = built(name, options, seed=1)
    twin.load_state_dict(p.apply(network.state_dict()))
    other = make(twin)
    kept = copy.deepcopy(optimizer.state_dict())
    other.load_state_dict(p.apply_to_optimizer(optimizer.state_dict(), names_of(network)))
    torch.testing.assert_close(optimizer.state_dict(), kept, rtol=0, atol=0)
    train(network, optimizer, shape, seed=2)
    train(twin, other, shape, seed=2)
    back = p.inverse()
    assert distance(back.apply(twin.state_dict()), network.state_dict()) < 1e-10
    theirs = back.apply_to_optimizer(other.state_dict(), names_of(network))["state"]
    for number, entry in optimizer.state_dict()["state"].items():
        for key, value in entry.items():
            torch.testing.assert_close(theirs[number][key], value, rtol=1e-9, atol=1e-10)
    # The control: with the weights alone permuted, training goes on elsewhere.
    other.load_state_dict(kept)
    train(twin, other, shape, seed=3)
    train(network, optimizer, shape, seed=3)
    assert distance(back.apply(twin.state_dict()), network.state_dict()) > 1e-4


def trained(make: Make, name: str = "mlp", options: dict[str, Any] = MLP) -> dict[str, Any]:
    network = built(name, options)
    optimizer = make(network)
    train(network, optimizer, (6,), seed=0)
    return optimizer.state_dict()


def test_an_optimizer_of_named_parameters_names_them_itself() -> None:
    p = alignment("mlp", MLP)
    plain = trained(OPTIMIZERS["adam"])
    named = trained(lambda n: torch.optim.Adam(reversed([*n.named_parameters()]), lr=0.01))
    names = named["param_groups"][0]["param_names"]
    moved, expected = p.apply_to_optimizer(named), p.apply_to_optimizer(named, names)
    torch.testing.assert_close(moved["state"], expected["state"], rtol=0, atol=0)
    last = p.apply_to_optimizer(plain, names[::-1])["state"][0]["exp_avg"]
    assert torch.equal(moved["state"][len(names) - 1]["exp_avg"], last)
    assert parameter_names(named, p.spec, {}) == names
    with pytest.raises(
        CheckpointError, match=r"numbered, not named; in Python, Alignment.apply_to"
    ):
        p.apply_to_optimizer(plain)


def test_what_an_optimizer_must_be() -> None:
    p, plain = alignment("mlp", MLP), trained(OPTIMIZERS["sgd"])
    names = names_of(built("mlp", MLP))
    with pytest.raises(CheckpointError, match="not the state of an optimizer: expected 'state' "):
        p.apply_to_optimizer({"state": {}}, names)
    with pytest.raises(CheckpointError, match="the optimizer has 6 parameters, not 5"):
        p.apply_to_optimizer(plain, names[:-1])
    stray = {**plain, "state": {**plain["state"], 17: {"momentum_buffer": torch.zeros(3)}}}
    with pytest.raises(CheckpointError, match="a state of 17, which no group has"):
        p.apply_to_optimizer(stray, names)
    stray["state"][17] = {"step": torch.tensor(1.0)}
    assert p.apply_to_optimizer(stray, names)["state"].keys() == stray["state"].keys()
    swapped = [names[1], names[0], *names[2:]]
    with pytest.raises(CheckpointError, match=r"'momentum_buffer' has shape \[7, 6\] \(1 axes des"):
        p.apply_to_optimizer(plain, swapped)


def test_states_that_do_not_move_stay_as_they_are() -> None:
    p, plain = alignment("mlp", MLP), trained(OPTIMIZERS["sgd"])
    names = names_of(built("mlp", MLP))
    fixed = names.index("head.bias")
    odd = {"rows": torch.zeros(17), "step": torch.tensor(3.0), "momentum_buffer": None}
    plain["state"][fixed] = odd
    assert str(p.apply_to_optimizer(plain, names)["state"][fixed]) == str(odd)
    plain["state"][0] = {"factors": [torch.zeros(3)], "step": 1}
    with pytest.raises(CheckpointError, match=f"'{names[0]}' .* 'factors' is a list of tensors"):
        p.apply_to_optimizer(plain, names)


def test_factored_states_are_refused() -> None:
    p = alignment("mlp", MLP)
    plain = trained(lambda n: torch.optim.Adafactor(n.parameters(), lr=0.01))
    with pytest.raises(CheckpointError, match=r"'row_var' has shape .* factored \(Adafactor\)"):
        p.apply_to_optimizer(plain, names_of(built("mlp", MLP)))
    with pytest.raises(CheckpointError, match=r"number 0 would be .* its 'row_var' is \[7, 1\]"):
        parameter_names(plain, p.spec, {})


# ---------------------------------------------------------------------------------------- naming


@pytest.fixture(scope="module")
def vit() -> tuple[nn.Module, PermutationSpec]:
    return networks.build("test_vit", seed=0), derive.derive("test_vit")


def stepped(network: nn.Module, groups: Any, **options: Any) -> Optimizer:
    """An optimizer after one step with made-up gradients."""
    optimizer = torch.optim.AdamW(groups, lr=1e-3, **options)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    return optimizer


def in_order(network: nn.Module, optimizer: Optimizer) -> list[str]:
    """The truth: which parameters the optimizer has, by identity."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


GROUPS: dict[str, Callable[[Any], Any]] = {
    "one group": lambda n: n.parameters(),
    "timm": lambda n: timm.optim.param_groups_weight_decay(
        n, 0.05, no_weight_decay_list=n.no_weight_decay()
    ),
    "timm's defaults": lambda n: timm.optim.param_groups_weight_decay(n, 0.05),
    "listed only": lambda n: timm.optim.param_groups_weight_decay(
        n, 0.05, weight_decay_exclude_1d=False, no_weight_decay_list=n.no_weight_decay()
    ),
    "decay first": lambda n: timm.optim.param_groups_weight_decay(n, 0.05)[::-1],
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_numbers_get_their_names(
    vit: tuple[nn.Module, PermutationSpec], groups: Callable[[Any], Any]
) -> None:
    network, spec = vit
    optimizer = stepped(network, groups(network))
    shapes = checkpoints.shapes(network)
    found = parameter_names(optimizer.state_dict(), spec, shapes)
    assert found == in_order(network, optimizer)
    assert len(found) == len(list(network.parameters()))


def test_numbers_that_could_have_other_names_are_refused(
    vit: tuple[nn.Module, PermutationSpec],
) -> None:
    network, spec = vit
    every = list(network.parameters())
    shapes = checkpoints.shapes(network)

    def refusal(groups: Any, spec: PermutationSpec = spec) -> str:
        with pytest.raises(CheckpointError) as error:
            parameter_names(stepped(network, groups).state_dict(), spec, shapes)
        return str(error.value)

    halves = [{"params": every[:9]}, {"params": every[9:], "lr": 1.0}]
    assert refusal(halves).startswith(
        "the optimizer's parameters are numbered, and which number is which cannot be told: it has "
        f"2 groups of parameters, of 9 (weight decay 0.01), {len(every) - 9} (weight decay 0.01); "
        f"test_vit has {len(every)} parameters, and they are told apart only in one group, or in "
        "two as timm splits them by weight decay; in Python, Alignment.apply_to_optimizer takes"
    )
    frozen = every[3:]
    assert "1 groups of parameters, of" in refusal(frozen)
    assert "another order, or a state that is factored" in refusal(every[::-1])
    decayed = [{"params": every[:9], "weight_decay": 0}, {"params": every[9:]}]
    assert "9 (weight decay 0), " in refusal(decayed)
    nobody = PermutationSpec(spec.groups, spec.axes)
    assert "the permutation spec names no architecture" in refusal(every, nobody)
    nothing = PermutationSpec(spec.groups, spec.axes, architecture="test_vitt")
    assert "the network cannot be built: " in refusal(every, nothing)
    with pytest.raises(CheckpointError, match=r"the network in the file has no 'cls_token', test"):
        parameter_names(stepped(network, every).state_dict(), spec, {"pos_embed": (1, 5)})


class Square(nn.Module):
    """As many parameters are listed as are thin, and all shapes of both splits agree."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.ones(3)) for _ in range(2))
        self.c, self.d = (nn.Parameter(torch.ones(1, 1)) for _ in range(2))

    def no_weight_decay(self) -> set[str]:
        return {"c", "d"}


def test_two_orders_of_the_same_shapes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "skeleton", lambda *_: Square())
    text = "format: perm-merge/permspec@1\narchitecture: x\ngroups: {g: 3}\naxes: {a: [g]}\n"
    spec = PermutationSpec.loads(text)
    groups = [{"params": [0, 1], "weight_decay": 0}, {"params": [2, 3], "weight_decay": 1}]
    state = {"state": {}, "param_groups": groups}
    with pytest.raises(CheckpointError, match="several orders have the same shapes"):
        parameter_names(state, spec, {})


# ------------------------------------------------------------------------- training checkpoints


def timm_checkpoint(folder: Path, optimizer_name: str) -> tuple[Path, nn.Module, nn.Module]:
    """A checkpoint of timm's own saver: network, averaged copy, optimizer, arguments."""
    network = networks.build("resnet_cifar", RESNET, seed=0)
    optimizer = timm.optim.create_optimizer_v2(
        network, opt=optimizer_name, lr=0.05, weight_decay=1e-3
    )
    average = ModelEmaV3(network, decay=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        network(torch.randn(4, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        average.update(network)
    saver = CheckpointSaver(
        network,
        optimizer,
        args=argparse.Namespace(model="resnet_cifar", lr=0.05),
        model_ema=average,
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
    )
    saver.save_checkpoint(3, metric=71.0)
    return folder / "last.pth.tar", network, average.module


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_a_training_checkpoint_of_timm_is_permuted_whole(tmp_path: Path, name: str) -> None:
    file, network, average = timm_checkpoint(tmp_path, name)
    p = alignment("resnet_cifar", RESNET)
    done = permute_file(str(file), [p])
    assert done.out.name == "last.permuted.pth.tar"
    assert {part.place: part.kind for part in done.parts} == {
        "state_dict": "tensors",
        "state_dict_ema": "tensors",
        "optimizer": "optimizer",
    }
    with torch.serialization.safe_globals([argparse.Namespace]):
        before, after, mapped = (
            torch.load(path, weights_only=True, mmap=mmap)
            for path, mmap in ((file, False), (done.out, False), (done.out, True))
        )
    assert list(before) == list(after) == list(mapped)
    for key in set(before) - {"state_dict", "state_dict_ema", "optimizer"}:
        assert before[key] == after[key]
    assert type(after["state_dict"]) is type(before["state_dict"])
    assert after["state_dict"]._metadata == before["state_dict"]._metadata
    for key, module in (("state_dict", network), ("state_dict_ema", average)):
        assert distance(after[key], p.apply(module.state_dict())) == 0
    loaded = checkpoints.load(str(done.out), ema=True).state
    assert distance(loaded, p.apply(average.state_dict())) == 0

    twin = networks.build("resnet_cifar", RESNET, seed=1)
    optimizer = timm.optim.create_optimizer_v2(twin, opt=name, lr=0.05, weight_decay=1e-3)
    optimizer.load_state_dict(after["optimizer"])
    order = in_order(twin, optimizer)
    assert order != names_of(twin)  # so that the order matters
    buffers = ("momentum_buffer", "exp_avg", "exp_avg_sq")
    key = next(key for key in buffers if key in before["optimizer"]["state"][0])
    momenta = dict(zip(order, before["optimizer"]["state"].values(), strict=True))
    expected = p.apply({name: entry[key] for name, entry in momenta.items()})
    for number, parameter in enumerate(order):
        assert torch.equal(after["optimizer"]["state"][number][key], expected[parameter])
    back = permute_file(str(done.out), [p], inverse=True)
    with torch.serialization.safe_globals([argparse.Namespace]):
        torch.testing.assert_close(
            torch.load(back.out, weights_only=True)["optimizer"],
            before["optimizer"],
            rtol=0,
            atol=0,
        )


def test_checkpoints_under_other_headings_and_in_lists() -> None:
    p = alignment("mlp", MLP)
    network = built("mlp", MLP)
    optimizer = OPTIMIZERS["adam"](network)
    train(network, optimizer, (6,), seed=0)
    state = dict(network.state_dict())
    content = {
        "optimizer_states": [optimizer.state_dict()],
        "nested": {"model_state_dict": {f"module.{n}": t for n, t in state.items()}},
        "rng": torch.zeros(9, dtype=torch.uint8),
        "history": [(1, 0.5), torch.Size([3])],
        "empty": {},
    }
    result, parts = permute_content(content, p)
    assert [part.place for part in parts] == ["nested.model_state_dict", "optimizer_states[0]"]
    moved = result["nested"]["model_state_dict"]
    expected = p.apply(state)
    assert all(torch.equal(moved[f"module.{name}"], expected[name]) for name in state)
    assert result["rng"] is content["rng"] and result["history"] == content["history"]
    assert isinstance(result["history"][1], torch.Size)
    names = names_of(network)
    torch.testing.assert_close(
        result["optimizer_states"][0],
        p.apply_to_optimizer(optimizer.state_dict(), names),
        rtol=0,
        atol=0,
    )
    alone, parts = permute_content(optimizer.state_dict(), p)
    torch.testing.assert_close(alone, result["optimizer_states"][0], rtol=0, atol=0)
    assert [(part.place, part.kind) for part in parts] == [("", "optimizer")]


def test_an_optimizer_that_made_no_step_needs_no_names() -> None:
    p = alignment("mlp", MLP)
    network = built("mlp", MLP)
    fresh = torch.optim.SGD([*network.parameters()][:2], lr=1.0).state_dict()
    result, parts = permute_content({"model": dict(network.state_dict()), "opt": fresh}, p)
    assert result["opt"] == fresh and len(parts) == 1


def test_tensors_that_share_memory_share_it_afterwards() -> None:
    text = "format: perm-merge/permspec@1\ngroups: {g: 4}\naxes: {a: [5, g], b: [5, g]}\n"
    spec = PermutationSpec.loads(text)
    p = Alignment(spec.random(generator=np.random.default_rng(0)), spec)
    tied = torch.randn(5, 4)
    result, _ = permute_content({"a": tied, "b": tied.view(5, 4), "c": torch.randn(3)}, p)
    assert result["a"].data_ptr() == result["b"].data_ptr() != tied.data_ptr()


def test_weights_without_names_are_refused_and_not_left_behind() -> None:
    p = alignment("mlp", MLP)
    state = dict(built("mlp", MLP).state_dict())
    with pytest.raises(CheckpointError) as error:
        permute_content({"model": state, "ema": {"shadow": [torch.zeros(2, 3)]}, 3: state}, p)
    assert str(error.value).startswith("'ema.shadow[0]': tensors of several axes that have no name")
    with pytest.raises(CheckpointError, match=r"'0', '1'"):
        permute_content({"model": state, 0: torch.eye(2), 1: torch.eye(2)}, p)
    with pytest.raises(
        PermutationSpecError, match=r"none of its 1 tensors .* it has 'w', the spec"
    ):
        permute_content({"model": {"w": torch.eye(2)}}, p)
    with pytest.raises(PermutationSpecError, match=r"none of its 0 tensors .* it has 'no tensor'"):
        permute_content([torch.ones(2)], p)
    with pytest.raises(
        CheckpointError, match=r"'\[0\]': tensors of several axes that have no name"
    ):
        permute_content([torch.eye(2)], p)


def test_errors_say_where_in_the_file(tmp_path: Path) -> None:
    p = alignment("mlp", MLP)
    wrong = {**built("mlp", MLP).state_dict(), "head.weight": torch.zeros(3, 4)}
    torch.save({"model": {"ema": wrong}}, tmp_path / "w.pth")
    with pytest.raises(PermutationSpecError) as error:
        permute_file(str(tmp_path / "w.pth"), [p])
    assert str(error.value) == (
        f"{tmp_path / 'w.pth'}: 'model.ema': the permutation spec of mlp does not fit the network:"
        "\n  head.weight: axis 1: 'layers.1' gives 5 coordinates, the tensor has 4"
    )
    torch.save(wrong, tmp_path / "flat.pth")
    with pytest.raises(PermutationSpecError, match=r"flat.pth: the permutation spec of mlp does n"):
        permute_file(str(tmp_path / "flat.pth"), [p])
    adafactor = trained(lambda n: torch.optim.Adafactor(n.parameters(), lr=0.01))
    torch.save({"model": {**built("mlp", MLP).state_dict()}, "opt": adafactor}, tmp_path / "o.pth")
    with pytest.raises(CheckpointError, match=r"o.pth: 'opt': the optimizer's parameters are numb"):
        permute_file(str(tmp_path / "o.pth"), [p])
    assert not (tmp_path / "o.permuted.pth").exists()
