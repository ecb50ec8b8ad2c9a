"""Derivation of what timm does not have: torchvision's classifiers, and whatever users write."""

from __future__ import annotations

import inspect
import textwrap
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import mergekit_perm as pm
from mergekit_perm import networks
from mergekit_perm.axis_text import format_axis
from mergekit_perm.errors import DerivationError, NetworkError
from tests.derive import odd_modules as odd
from tests.derive.proving import counts, derived_and_proven, images, sizes

# ------------------------------------------------------------------------- torchvision, by hand

# Name, options, edge of the images, outermost groups and all groups (nested ones for each block).
Row = tuple[str, dict[str, Any], int, int, int]
NO_INIT = {"init_weights": False}


def shufflenet_groups(units: tuple[int, ...], half: tuple[int, ...], stem: int = 24) -> int:
    """Return how many groups ShuffleNet V2 has: channels of one writer with the same readers.

    A unit gives what it passes on and what its branch writes in turns; the branch of the next one
    reads the second half of that.
    """
    readers: list[tuple[str, list[str]]] = []

    def written(by: str, count: int) -> list[tuple[str, list[str]]]:
        new: list[tuple[str, list[str]]] = [(by, []) for _ in range(count)]
        readers.extend(new)
        return new

    def read(channels: list[tuple[str, list[str]]], by: str) -> None:
        for _, readers_of in channels:
            readers_of.append(by)

    channels = written("stem", stem)
    for stage, (count, width) in enumerate(zip(units, half, strict=True)):
        for unit in range(count):
            name = f"{stage}.{unit}"
            if unit == 0:
                read(channels, name)
                passed = written(f"{name}.1", width)
            else:
                passed, channels = channels[:width], channels[width:]
                read(channels, name)
            branch = written(f"{name}.2", width)
            channels = [c for pair in zip(passed, branch, strict=True) for c in pair]
    read(channels, "last")
    inside = sum(units) + 1  # the first convolution of every branch, and the last one of all
    alike = Counter((by, tuple(of)) for by, of in readers)
    return inside + sum(count > 1 for count in alike.values())


def test_shufflenet_by_hand() -> None:
    """Two units: stem, the middles of two branches, what is passed twice or read once, the last."""
    assert shufflenet_groups((1,), (4,)) == 1 + 1 + 2 + 1
    assert shufflenet_groups((2,), (4,)) == 1 + 2 + (2 + 2 + 1) + 1


SHUFFLENET = {
    "shufflenet_v2_x0_5": shufflenet_groups((4, 8, 4), (24, 48, 96)),
    "shufflenet_v2_x1_0": shufflenet_groups((4, 8, 4), (58, 116, 232)),
}

FAST: list[Row] = [
    ("alexnet", {}, 64, 5 + 2, 7),
    ("resnet18", {}, 64, 4 + 8, 12),
    ("shufflenet_v2_x0_5", {}, 64, SHUFFLENET["shufflenet_v2_x0_5"], 80),
    ("squeezenet1_1", {}, 64, 1 + 8 * 3, 25),
    ("vgg11", {}, 64, 8 + 2, 10),
]

SLOW: list[Row] = [
    ("convnext_tiny", {}, 64, 4 + 18, 22),
    ("densenet121", {}, 64, 1 + 2 * 58 + 3, 120),
    ("efficientnet_b0", {}, 64, 1 + 7 + 15 + 16 + 1, 40),
    ("efficientnet_v2_s", {}, 64, 6 + 8 + 30 + 30 + 1, 75),
    ("googlenet", {**NO_INIT, "aux_logits": False}, 64, 3 + 9 * 6, 57),
    ("googlenet", {**NO_INIT, "aux_logits": True}, 64, 3 + 9 * 6 + 2 * 2, 61),
    ("inception_v3", {**NO_INIT, "aux_logits": False}, 128, 94, 94),
    ("inception_v3", {**NO_INIT, "aux_logits": True}, 299, 94 + 2, 96),
    (
        "maxvit_t",
        {},
        224,
        2 + 4 + 11 * 6 + 1,
        73 + 2 * 2 * (2 * 2 + 2 * 4 + 5 * 8 + 2 * 16),
    ),
    ("mnasnet0_5", {}, 64, 1 + 7 + 16 + 1, 25),
    ("mobilenet_v2", {}, 64, 1 + 7 + 16 + 1, 25),
    ("mobilenet_v3_small", {}, 64, 1 + 5 + 10 + 9 + 2, 27),
    ("regnet_x_400mf", {}, 64, 5 + 22, 27 + 2 * (1 * 2 + 2 * 4 + 7 * 10 + 12 * 25)),
    ("regnet_y_400mf", {}, 64, 5 + 16 + 16, 37 + 2 * (1 * 6 + 3 * 13 + 6 * 26 + 6 * 55)),
    ("resnet50", {}, 64, 5 + 16 * 2, 37),
    ("resnext50_32x4d", {}, 64, 5 + 16, 21 + 16 * 32 * 2),
    ("shufflenet_v2_x1_0", {}, 64, SHUFFLENET["shufflenet_v2_x1_0"], 86),
    ("swin_t", {}, 64, 4 + 2 * 12, 28 + 2 * (2 * 3 + 2 * 6 + 6 * 12 + 2 * 24)),
    ("swin_v2_t", {}, 64, 4 + 3 * 12, 40 + 2 * (2 * 3 + 2 * 6 + 6 * 12 + 2 * 24)),
    ("vgg11_bn", {}, 64, 8 + 2, 10),
    ("vit_b_16", {}, 224, 1 + 2 * 12, 25 + 12 * 12 * 2),
    ("wide_resnet50_2", {}, 64, 5 + 16 * 2, 37),
]


def row_id(row: Row) -> str:
    aux = "-aux" * bool(row[1].get("aux_logits"))
    return row[0] + aux


@pytest.mark.parametrize("row", FAST, ids=row_id)
def test_torchvision_groups(row: Row) -> None:
    name, options, edge, top, every = row
    spec = pm.derive(f"torchvision.models:{name}", options, inputs=images(3, edge, edge))
    assert counts(spec) == (top, every)


@pytest.mark.slow
@pytest.mark.parametrize("row", [*FAST, *SLOW], ids=row_id)
def test_torchvision_specs_are_proven(row: Row) -> None:
    name, options, edge, top, every = row
    spec, proof = derived_and_proven(
        f"torchvision.models:{name}", images(3, edge, edge), options=options
    )
    assert counts(spec) == (top, every)
    assert proof.coverage > 0.99
    assert len(proof.controls) == sum(group.size > 1 for group in spec.groups.values())


def test_every_torchvision_family_is_there() -> None:
    """A family is a file of torchvision's."""

    def family(name: str) -> str:
        return torchvision.models.get_model_builder(name).__module__

    every = torchvision.models.list_models(module=torchvision.models)
    assert {family(row[0]) for row in (*FAST, *SLOW)} == set(map(family, every))


def test_torchvision_classifiers_say_what_they_take() -> None:
    models = torchvision.models
    assert networks.input_shape(models.squeezenet1_1()) == (3, 224, 224)
    assert networks.input_shape(models.Inception3(init_weights=False)) == (3, 299, 299)
    assert networks.input_shape(models.VisionTransformer(32, 16, 1, 2, 8, 8)) == (3, 32, 32)


def test_torchvision_needs_no_inputs() -> None:
    spec = pm.derive("torchvision.models:squeezenet1_1")
    assert len(spec.groups) == 25
    assert pm.verify(spec).difference < 1e-12


def test_other_parts_of_torchvision_do_not_say_what_they_take() -> None:
    module = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None
    )
    with pytest.raises(NetworkError, match="LRASPP does not say what input it takes: set an attr"):
        pm.derive(module)


@pytest.mark.slow
def test_torchvision_segments_images() -> None:
    module = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None
    )
    spec, proof = derived_and_proven(module, images(3, 64, 64))
    assert counts(spec) == (30, 30)
    assert proof.coverage > 0.999


# ----------------------------------------------------------------------------------- odd modules

NUMBERS = torch.tensor([[1, 2, 3, 4, 0], [5, 10, 7, 0, 9]])
VECTORS = images(6)
SEQUENCES = images(5, 6)
PICTURES = images(3, 6, 6)
STEPS_FIRST = SEQUENCES.transpose(0, 1).contiguous()

# Of each pair of heads: which is which, and what stands within. Queries and keys are tangled.
TALKING = "2 2 2 2 2 2 2 2 2 2>2 2>2 2>2 2>2 2>2 2>2"

# Name, module, inputs, groups: `5`, or `2>3` for a group of 3 in each block of one of 2.
ODD: list[tuple[str, Callable[[], nn.Module], Any, str]] = [
    ("lstm", partial(odd.Recurrent, "LSTM"), SEQUENCES, "8"),
    ("lstm-steps-first", partial(odd.Recurrent, "LSTM", first=False), STEPS_FIRST, "8"),
    ("lstm-state", partial(odd.Recurrent, "LSTM", state=True, num_layers=2), SEQUENCES, "8 8"),
    ("lstm-both-ways", partial(odd.Recurrent, "LSTM", bidirectional=True), SEQUENCES, "8 8"),
    ("gru", partial(odd.Recurrent, "GRU"), SEQUENCES, "8"),
    ("gru-state", partial(odd.Recurrent, "GRU", state=True), SEQUENCES, "8"),
    (
        "gru-both-ways",
        partial(odd.Recurrent, "GRU", num_layers=2, bidirectional=True),
        SEQUENCES,
        "8 8 8 8",
    ),
    ("gru-no-biases", partial(odd.Recurrent, "GRU", bias=False), SEQUENCES, "8"),
    ("rnn", partial(odd.Recurrent, "RNN"), SEQUENCES, "8"),
    ("rnn-relu", partial(odd.Recurrent, "RNN", nonlinearity="relu"), SEQUENCES, "8"),
    ("lstm-cell", partial(odd.Steps, "LSTMCell"), SEQUENCES, "8"),
    ("gru-cell", partial(odd.Steps, "GRUCell"), SEQUENCES, "8"),
    ("rnn-cell", partial(odd.Steps, "RNNCell"), SEQUENCES, "8"),
    ("tied-words", odd.TiedWords, NUMBERS, "7 8"),
    ("tied-transposed", odd.TiedTransposed, VECTORS, "8"),
    ("a-layer-twice", odd.Twice, VECTORS, "8"),
    ("attention", odd.Attention, SEQUENCES, "2 2>4 2>4 8"),
    ("attention-weights", partial(odd.Attention, weights=True), SEQUENCES, "2 2>4 2>4 8"),
    ("attention-steps-first", partial(odd.Attention, first=False), STEPS_FIRST, "2 2>4 2>4 8"),
    ("encoder", odd.Encoder, SEQUENCES, "12 12 2 2 2>4 2>4 2>4 2>4 8"),
    (
        "encoder-norm-first",
        partial(odd.Encoder, norm_first=True),
        SEQUENCES,
        "12 12 2 2 2>4 2>4 2>4 2>4 8",
    ),
    (
        "encoder-steps-first",
        partial(odd.Encoder, first=False),
        STEPS_FIRST,
        "12 12 2 2 2>4 2>4 2>4 2>4 8",
    ),
    ("causal", odd.Causal, NUMBERS, "12 2 2>4 2>4 8"),
    ("shared-heads", odd.SharedHeads, SEQUENCES, "16 2 2>2 2>4 2>4"),
    ("two-inputs", odd.Crossing, (images(5, 6), images(4, 5)), "2 2>4 2>4 4 8"),
    ("inputs-by-name", odd.Crossing, {"y": images(4, 5), "x": SEQUENCES, "scale": 2.0},
     "2 2>4 2>4 4 8"),
    ("optional-given", odd.Optional, [VECTORS, images(5)], "8"),
    ("several-outputs", odd.Several, VECTORS, "5"),
    ("item", odd.WithItem, VECTORS, "8"),
    ("loops", odd.Loops, VECTORS, "8 8 8"),
    ("writes", odd.Writes, VECTORS, "4 4"),
    ("overwrites", odd.Overwrites, VECTORS, "3 5"),
    ("reads-half", odd.ReadsHalf, VECTORS, "4"),
    ("registers", odd.Registers, SEQUENCES, "4 8"),
    ("weight-norm", partial(odd.Parametrised, "weight_norm"), VECTORS, "5 8"),
    (
        "weight-norm-convolution",
        partial(odd.Parametrised, "weight_norm", convolution=True),
        PICTURES,
        "5 8",
    ),
    ("spectral-norm", partial(odd.Parametrised, "spectral_norm"), VECTORS, "5 8"),
    (
        "spectral-norm-convolution",
        partial(odd.Parametrised, "spectral_norm", convolution=True),
        PICTURES,
        "5 8",
    ),
    ("frozen-norm", odd.FrozenNorm, PICTURES, "8"),
    ("frozen-torchvision-norm", odd.FrozenTorchvisionNorm, PICTURES, "8"),
    ("spectrum", odd.Spectrum, PICTURES, "8"),
    ("spectrum-of-pairs", odd.SpectrumOfPairs, PICTURES, "8"),
    ("complex", odd.Complex, VECTORS, "8"),
    ("bfloat16", lambda: odd.Hidden().bfloat16(), VECTORS.bfloat16(), "8"),
    ("float16", lambda: odd.Hidden().half(), VECTORS.half(), "8"),
    ("bag", odd.Bag, NUMBERS, "7 8"),
    ("bag-max", partial(odd.Bag, "max"), NUMBERS, "7 8"),
    ("sparse-words", odd.SparseWords, NUMBERS, "8"),
    ("unused", odd.Unused, VECTORS, "8"),
    ("auxiliary", odd.Auxiliary, VECTORS, "7 8"),
    ("reads-a-parameter", odd.ReadsParameter, VECTORS, "8"),
    ("from-a-parameter", odd.FromParameter, VECTORS, "8"),
    ("caching", odd.Caching, VECTORS, "8"),
    ("copies", odd.Copies, VECTORS, "8 8 8"),
    ("mixture", odd.Mixture, VECTORS, "10 4 8"),
    ("unet", odd.UNet, images(3, 8, 8), "12 5 5>2 6 8"),
    ("chooses", odd.Chooses, VECTORS, "8 8"),
    ("talking-heads", odd.TalkingHeads, torch.randn(2, 5, 6), TALKING),
    ("unlike-groups", odd.UnlikeGroups, images(3, 6, 6), "2 2>4 2>6 4 6"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "inputs", "groups"), [pytest.param(*row[1:], id=row[0]) for row in ODD]
)
def test_odd_modules(make: Callable[[], nn.Module], inputs: Any, groups: str) -> None:
    torch.manual_seed(0)
    spec, proof = derived_and_proven(make(), inputs)
    assert sizes(spec) == groups
    assert all(change > 1e-7 for change in proof.controls.values())


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.:FutureWarning")
def test_spectral_norm_of_old() -> None:
    spec, _ = derived_and_proven(odd.OldNorms(), VECTORS)
    assert sizes(spec) == "5 8"
    assert {"second.weight_orig", "second.weight_u", "second.weight_v"} <= spec.axes.keys()


def test_names_of_parametrised_layers() -> None:
    spec = pm.derive(odd.Parametrised("weight_norm"), inputs=VECTORS)
    assert list(spec.groups) == ["first", "second"]
    assert "first.parametrizations.weight.original0" in spec.axes


def test_tied_tensors_have_an_entry_each() -> None:
    spec = pm.derive(odd.TiedWords(), inputs=NUMBERS)
    assert spec.axes["words.weight"] == spec.axes["decoder.weight"]
    assert spec.fixed["decoder.weight"].startswith("axis 0: looked up by number in embedding")


def test_outputs_stay_for_that_reason() -> None:
    spec = pm.derive(odd.Several(), inputs=VECTORS)
    assert list(spec.groups) == ["second"]
    assert spec.fixed["first.bias"].startswith("axis 0: output of the network in relu (odd_")


def test_a_layer_that_is_never_called_stays() -> None:
    spec = pm.derive(odd.Unused(), inputs=VECTORS)
    assert "never.weight" not in spec.axes
    assert spec.fixed["never.weight"] == "axes 0, 1: not read by the network"


def test_parts_that_are_never_read_stay() -> None:
    spec = pm.derive(odd.ReadsHalf(), inputs=VECTORS)
    assert format_axis(spec.axes["first.weight"][0]) == "first + 4"
    assert spec.fixed["first.bias"] == "axis 0: not read by the network"
    spec = pm.derive(odd.Overwrites(), inputs=VECTORS)
    assert format_axis(spec.axes["first.bias"][0]) == "first[0:2] + 3 + first[2:5]"


def test_what_only_training_reads_is_permuted_too() -> None:
    spec, proof = derived_and_proven(odd.Auxiliary(), VECTORS)
    assert {"aux_hidden.weight", "aux_hidden.bias", "aux_head.weight"} <= spec.axes.keys()
    assert proof.training_difference is not None


@pytest.mark.parametrize("module", [odd.Masks, odd.WithNumpy])
def test_constants_tell_units_apart(module: type[nn.Module]) -> None:
    """Those of one value could change places among themselves: such a part is not looked for."""
    spec, _ = derived_and_proven(module(), VECTORS)
    assert sizes(spec) == ""
    assert "constants" in spec.fixed["first.bias"] or "fixed" in spec.fixed["first.bias"]


def test_a_module_without_parameters() -> None:
    spec, proof = derived_and_proven(odd.Parameterless(), VECTORS)
    assert dict(spec.groups) == dict(spec.axes) == {}
    assert proof.coverage == 0.0


def test_an_input_that_is_left_out() -> None:
    module = odd.Optional()
    spec = pm.derive(module, inputs=VECTORS)
    assert sizes(spec) == "8"
    assert "other.weight" not in spec.axes


# ---------------------------------------------------------------------------------- what is refused


def line_of(part: type[nn.Module], text: str) -> str:
    """Return the place of a line of the source of `part`, as messages write it."""
    lines, first = inspect.getsourcelines(part)
    (number,) = [i for i, line in enumerate(lines) if text in line]
    return f"odd_modules.py:{first + number}"


@pytest.mark.parametrize(
    ("part", "line", "reason"),
    [
        (odd.Branching, "if x.sum() > 0", "its forward pass depends on the values of tensors"),
        (odd.Cutting, "x.abs().max().item()", "its forward pass depends on the values of tensors"),
        (odd.OutsideTorch, "x.numpy()", "its forward pass fails"),
        (odd.Broken, "x.flatten()", "its forward pass fails"),
    ],
)
def test_refusals_name_the_line(part: type[nn.Module], line: str, reason: str) -> None:
    with pytest.raises(DerivationError) as caught:
        pm.derive(part(), inputs=VECTORS)
    message = str(caught.value)
    assert message.startswith(f"{part.__name__} cannot be traced: {reason}")
    assert line_of(part, line) in message


def test_missing_inputs_are_named() -> None:
    with pytest.raises(DerivationError, match="fails: TypeError: missing a required argument: 'y'"):
        pm.derive(odd.Crossing(), inputs=SEQUENCES)


@pytest.mark.parametrize("architecture", ["tests.derive.odd_modules:Lazy", odd.Lazy()])
def test_lazy_layers(architecture: str | nn.Module) -> None:
    with pytest.raises(DerivationError) as caught:
        pm.derive(architecture, inputs=VECTORS)
    assert str(caught.value) == (
        "'first.weight' of Lazy has no shape before the first forward pass: run the network on a "
        "batch once, where it is built"
    )


def test_lazy_layers_that_ran_are_like_others() -> None:
    module = odd.Lazy()
    module(VECTORS)
    assert sizes(pm.derive(module, inputs=VECTORS)) == "8"


# ------------------------------------------------------------------------------ modules are kept


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("part", [odd.Auxiliary, odd.Caching, odd.Writes, odd.Branching])
def test_a_module_is_left_as_it_was(part: type[nn.Module], training: bool) -> None:
    torch.manual_seed(0)
    module = part().train(training)
    module.head.train(not training)
    module.first.bias.requires_grad_(False)
    seen: list[torch.Size] = []
    module.head.register_forward_hook(lambda _module, _inputs, outputs: seen.append(outputs.shape))
    parts = dict(module.named_modules())
    tensors = dict(module.state_dict(keep_vars=True))
    values = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    attributes = {name: set(vars(each)) for name, each in parts.items()}
    random = torch.get_rng_state()

    try:
        pm.derive(module, inputs=VECTORS)
    except DerivationError:
        assert part is odd.Branching

    assert torch.equal(torch.get_rng_state(), random)
    assert {name: set(vars(each)) for name, each in module.named_modules()} == attributes
    assert all(module.get_submodule(name) is each for name, each in parts.items())
    now = module.state_dict(keep_vars=True)
    assert all(now[name] is tensor for name, tensor in tensors.items())
    assert all(torch.equal(now[name], value) for name, value in values.items())
    assert (module.training, module.head.training) == (training, not training)
    assert not module.first.bias.requires_grad
    assert module.first.weight.requires_grad
    assert len(module.head._forward_hooks) == 1
    seen.clear()
    module.eval()(VECTORS).sum().backward()
    assert seen == [(2, 3)]
    assert module.first.weight.grad is not None


def test_what_a_module_keeps_between_calls_is_no_constant() -> None:
    module = odd.Caching()
    with torch.no_grad():
        before = module(VECTORS)
    assert sizes(pm.derive(module, inputs=VECTORS)) == "8"
    assert torch.equal(module(VECTORS), before)


# --------------------------------------------------------------------------------- Python paths

MINE = '''
    """A network of a user's own."""

    from torch import nn


    class Mine(nn.Module):
        def __init__(self, width: int, takes: tuple[int, ...] | None) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 6, 3)
            )
            self.head = nn.Linear(6, 4)
            if takes:
                self.input_shape = takes

        def forward(self, x):
            return self.head(self.body(x).relu().mean((2, 3)))


    def build(width: int = 5, *, silent: bool = False) -> nn.Module:
        return Mine(width, None if silent else (1, 9, 9))
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "networks_of_mine.py").write_text(textwrap.dedent(MINE))
    monkeypatch.syspath_prepend(tmp_path)
    return "networks_of_mine:build"


def test_a_function_of_the_users_own(mine: str) -> None:
    spec = pm.derive(mine, {"width": 7})
    assert {name: group.size for name, group in spec.groups.items()} == {"body.0": 7, "body.3": 6}
    assert (spec.architecture, spec.options) == (mine, {"width": 7})
    assert pm.verify(pm.PermutationSpec.loads(spec.dumps())).coverage > 0.99


def test_a_function_that_does_not_say_what_it_takes(mine: str) -> None:
    with pytest.raises(NetworkError) as caught:
        pm.derive(mine, {"silent": True})
    assert str(caught.value) == (
        "Mine does not say what input it takes: set an attribute on the module, such as "
        "`module.input_shape = (3, 32, 32)`, without the batch axis, or "
        "`module.example_inputs`, a batch, where one float tensor will not do"
    )
    assert sizes(pm.derive(mine, {"silent": True}, inputs=images(1, 9, 9))) == "5 6"


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("Attention", SEQUENCES),
        ("Auxiliary", VECTORS),
        ("Complex", VECTORS),
        ("Copies", VECTORS),
        ("Encoder", SEQUENCES),
        ("FromParameter", VECTORS),
        ("FrozenNorm", PICTURES),
        ("FrozenTorchvisionNorm", PICTURES),
        ("Parameterless", VECTORS),
        ("ReadsParameter", VECTORS),
        ("Spectrum", PICTURES),
        ("SpectrumOfPairs", PICTURES),
        ("TiedWords", NUMBERS),
        ("Twice", VECTORS),
    ],
)
def test_a_skeleton_gives_what_the_network_gives(name: str, inputs: torch.Tensor) -> None:
    by_path = pm.derive(f"tests.derive.odd_modules:{name}", inputs=inputs)
    by_module = pm.derive(getattr(odd, name)(), inputs=inputs)
    assert by_path.groups == by_module.groups
    assert by_path.axes == by_module.axes
    assert by_path.fixed == by_module.fixed
