"""Alignments as durable things: laws, files, and what they act on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from mergekit_perm import checkpoints, derive, networks
from mergekit_perm.alignment import Alignment, default_output, permute_file
from mergekit_perm.alignment.files import APPLIED
from mergekit_perm.errors import CheckpointError, PermutationSpecError, RunError, SpecError
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Permutation

torch.set_num_threads(1)

HEADS = """
format: perm-merge/permspec@1
architecture: toy
groups:
  heads: 2
  qk: {size: 3, within: heads}
  mlp: 4
axes:
  q.weight: [qk, 5]
  fc.*: [mlp]
  fc.weight: [mlp, _]
  head.weight: [2, mlp]
"""
TOY = {"q.weight": (6, 5), "fc.bias": (4,), "fc.weight": (4, 7), "head.weight": (2, 4)}

State = dict[str, torch.Tensor]


def toy_state(seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(shape, generator=generator) for name, shape in TOY.items()}
    return {**state, "other": torch.arange(3), "count": torch.tensor(5)}


def some(spec: PermutationSpec, seed: int = 0, **names: str) -> Alignment:
    return Alignment(spec.random(generator=np.random.default_rng(seed)), spec, **names)


def built_in(name: str, options: dict[str, Any]) -> tuple[nn.Module, PermutationSpec]:
    module = networks.build(name, options, seed=0).double()
    text = networks.permutation_spec_text(name, options)
    return module, PermutationSpec.loads(text).bind(checkpoints.shapes(module))


def same(one: State, other: State) -> bool:
    return list(one) == list(other) and all(torch.equal(one[n], other[n]) for n in one)


SPEC = PermutationSpec.loads(HEADS)
MLP = {"in_features": 6, "hidden": [7, 5], "num_classes": 3}


# ---------------------------------------------------------------------------------------- laws


def test_composition_acts_from_left_to_right_and_the_inverse_undoes() -> None:
    p, q, state = some(SPEC, 1), some(SPEC, 2), toy_state()
    assert same((p @ q).apply(state), q.apply(p.apply(state)))
    assert not same((p @ q).apply(state), p.apply(q.apply(state)))
    assert same(p.inverse().apply(p.apply(state)), state)
    assert (p @ p.inverse()).moved == (p.inverse() @ p).moved == 0
    assert (p @ q).inverse() == q.inverse() @ p.inverse()
    for group, permutation in (p @ q).permutations.items():
        assert permutation == p.permutations[group] @ q.permutations[group]


def test_names_say_from_where_to_where() -> None:
    p = some(SPEC, network="b", reference="a")
    q = some(SPEC, network="a", reference="z")
    assert ((p @ q).network, (p @ q).reference) == ("b", "z")
    assert (p.inverse().network, p.inverse().reference) == ("a", "b")


def test_apply_leaves_its_input_and_shares_nothing_with_it() -> None:
    state = toy_state()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    result = some(SPEC).apply(state)
    for tensor in result.values():
        tensor.zero_()
    assert same(state, kept)


def test_the_hash_is_of_the_permutations_alone() -> None:
    p = some(SPEC, 1)
    bound = SPEC.bind(TOY)
    assert p.sha256 == Alignment(p.permutations, bound, "b", "a").sha256
    assert p.sha256 != some(SPEC, 2).sha256 != p.inverse().sha256


def test_permutations_must_be_a_member_of_the_group() -> None:
    p = dict(some(SPEC).permutations)
    with pytest.raises(PermutationSpecError, match=r"missing \['mlp'\], unknown \['fc'\]"):
        Alignment({**{g: p[g] for g in ("heads", "qk")}, "fc": p["mlp"]}, SPEC)
    with pytest.raises(PermutationSpecError, match="'mlp' has 3 elements, the group 4"):
        Alignment({**p, "mlp": Permutation.identity(3)}, SPEC)
    torn = Permutation([3, 1, 2, 0, 4, 5])
    with pytest.raises(PermutationSpecError, match="'qk' does not move whole blocks as 'heads'"):
        Alignment({**p, "qk": torn}, SPEC)


def test_alignments_of_different_specs_are_not_composed() -> None:
    p = some(SPEC.bind(TOY))
    larger = PermutationSpec.loads(HEADS.replace("mlp: 4", "mlp: 6"))
    with pytest.raises(PermutationSpecError, match="group 'mlp' is 4 and 6"):
        p @ some(larger)
    lacking = PermutationSpec.loads(HEADS.replace("within: heads", "within: heads2")
                                    .replace("heads: 2", "heads2: 2"))  # fmt: skip
    with pytest.raises(PermutationSpecError, match="'heads' is 2 and missing; group 'qk' is 3 wi"):
        p @ some(lacking)
    text = HEADS.replace("fc.*", "fc.bias").replace("q.weight: [qk, 5]", "q.weight: [qk, 6]")
    other = PermutationSpec.loads(text.replace("  head.weight: [2, mlp]\n", ""))
    with pytest.raises(PermutationSpecError) as error:
        p @ some(other)
    assert str(error.value) == (
        "alignments of different permutation specs cannot be composed: "
        "q.weight is [qk, 5] and [qk, 6]; head.weight is [2, mlp] and fixed"
    )
    fc = "group 'mlp' is 4 and 6"
    assert fc not in str(error.value)


def test_a_spec_with_patterns_composes_with_the_one_that_names_tensors() -> None:
    assert (some(SPEC) @ some(SPEC.bind(TOY))).spec.axes.keys() == TOY.keys()
    assert (some(SPEC.bind(TOY)) @ some(SPEC)).spec.axes.keys() == TOY.keys()


# --------------------------------------------------------------------------------------- files


def test_a_saved_alignment_needs_no_other_file(tmp_path: Path) -> None:
    p = some(SPEC.bind(TOY), network="b", reference="joint")
    file = tmp_path / "b.safetensors"
    sha256 = p.save(file)
    assert sha256 == p.save(file)  # the same bytes each time
    back = Alignment.load(file)
    assert (back.permutations, back.network, back.reference) == (p.permutations, "b", "joint")
    assert back.spec.axes == p.spec.axes and back.spec.groups == p.spec.groups
    assert same(back.apply(toy_state()), p.apply(toy_state()))
    header = checkpoints.load_metadata(file)
    assert header["format"] == "perm-merge/permutations@1"
    assert header["permspec_sha256"] == back.spec.sha256 and header["sha256"] == p.sha256
    assert {t.dtype for t in checkpoints.load_state(file).values()} == {torch.int64}


def old_file(path: Path, alignment: Alignment) -> Path:
    """A file as runs wrote it before they put the spec into it."""
    tensors = {g: torch.from_numpy(p.indices.copy()) for g, p in alignment.permutations.items()}
    checkpoints.save(path, tensors)
    return path


def test_older_files_find_their_spec_in_the_folder_of_the_run(tmp_path: Path) -> None:
    p = some(SPEC)
    file = old_file(tmp_path / "permutations" / "b.safetensors", p)
    with pytest.raises(PermutationSpecError) as error:
        Alignment.load(file)
    beside = tmp_path / "permspec.yaml"
    assert str(error.value) == (
        f"{file}: has no permutation spec in it, and there is no {beside}; give the spec it was "
        "made with (--permspec FILE)"
    )
    beside.write_text(HEADS)
    assert Alignment.load(file) == p == Alignment.load(file, SPEC)


def test_files_that_are_no_permutations_say_so(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    checkpoints.save(file, toy_state())
    with pytest.raises(CheckpointError, match=r"x.safetensors: group 'count': a permutation is a"):
        Alignment.load(file)
    checkpoints.save(file, {"mlp": torch.tensor([0, 0, 1, 2])})
    with pytest.raises(CheckpointError, match=r"group 'mlp': not a permutation of 0..3: an index"):
        Alignment.load(file)
    with pytest.raises(CheckpointError, match=r"gone.safetensors: cannot be opened"):
        Alignment.load(tmp_path / "gone.safetensors")
    with pytest.raises(CheckpointError, match=r"expected one that ends in .safetensors"):
        Alignment.load(tmp_path / "x.pth")


def test_files_of_another_spec_format_or_content_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    some(SPEC).save(file)
    other = PermutationSpec.loads(HEADS.replace("mlp: 4", "mlp: 6"))
    with pytest.raises(PermutationSpecError) as error:
        Alignment.load(file, other)
    assert str(error.value) == (
        f"{file}: the permutation of 'mlp' has 4 elements, the group 6; give the permutation spec "
        "it was made with (--permspec FILE)"
    )
    tensors, header = checkpoints.load_state(file), checkpoints.load_metadata(file)
    checkpoints.save(file, tensors, metadata={**header, "format": "perm-merge/permutations@2"})
    with pytest.raises(CheckpointError, match=r"@2, expected .*@1; is it of a newer perm-merge\?"):
        Alignment.load(file)
    edited = header["permspec"].replace("[2, mlp]", "[3, mlp]")
    checkpoints.save(file, tensors, metadata={**header, "permspec": edited})
    with pytest.raises(CheckpointError, match="not the one it was saved with"):
        Alignment.load(file)


# --------------------------------------------------------------------------------- what it moves


def test_a_vision_transformer_computes_the_same(tmp_path: Path) -> None:
    spec = derive.derive("test_vit")
    network = networks.build("test_vit", seed=0).double().eval()
    some(spec).save(tmp_path / "p.safetensors")
    x = torch.randn(2, 3, 160, 160, dtype=torch.float64)
    with torch.no_grad():
        before = network(x)
        permuted = Alignment.load(tmp_path / "p.safetensors").apply(network.state_dict())
        assert not torch.equal(permuted["pos_embed"], network.pos_embed)
        network.load_state_dict(permuted)
        after = network(x)
    assert float((after - before).abs().max() / before.abs().max()) < 1e-12


def test_masks_move_as_their_weights_whether_all_are_there_or_not() -> None:
    p, state = some(SPEC), toy_state()
    masks = {"head.weight": state["head.weight"] > 0, "fc.weight": state["fc.weight"] > 0}
    moved, weights = p.apply(masks), p.apply(state)
    assert list(moved) == list(masks)
    for name, mask in moved.items():
        assert mask.dtype == torch.bool and torch.equal(mask, weights[name] > 0)


def test_networks_pruned_by_torch_keep_values_and_masks_together() -> None:
    network, spec = built_in("mlp", MLP)
    p, plain = some(spec), dict(network.state_dict())
    prune.l1_unstructured(network.layers[1], "weight", 0.4)
    state = network.state_dict()
    assert "layers.1.weight_orig" in state and "layers.1.weight" not in state
    masked = state["layers.1.weight_orig"] * state["layers.1.weight_mask"]
    result = p.apply({f"module.{name}": tensor for name, tensor in state.items()})
    both = result["module.layers.1.weight_orig"] * result["module.layers.1.weight_mask"]
    assert torch.equal(both, p.apply({**plain, "layers.1.weight": masked})["layers.1.weight"])
    x = torch.randn(4, 6, dtype=torch.float64)
    before = network(x)
    network.load_state_dict({name.removeprefix("module."): t for name, t in result.items()})
    assert torch.allclose(network(x), before, atol=1e-13)


def test_names_with_the_suffix_of_a_mask_in_the_spec_itself_are_not_cut() -> None:
    text = "format: perm-merge/permspec@1\ngroups: {g: 4}\naxes: {a: [4], a_mask: [g], b*: [g]}\n"
    spec = PermutationSpec.loads(text)
    p, x = some(spec), torch.arange(4)
    moved = p.apply({"a": x, "a_mask": x, "b_orig": x, "bb": torch.tensor(0)})
    assert torch.equal(moved["a"], x)
    assert torch.equal(moved["a_mask"], p.permutations["g"].act(x))
    assert torch.equal(moved["b_orig"], moved["a_mask"])


def test_shapes_that_are_not_the_specs_are_named() -> None:
    p, state = some(SPEC), toy_state()
    with pytest.raises(PermutationSpecError) as error:
        p.apply({**state, "q.weight": torch.zeros(7, 5), "fc.bias": torch.zeros(2)})
    assert str(error.value) == (
        "the permutation spec of toy does not fit the network:\n"
        "  q.weight: axis 0: 'qk' gives 6 coordinates, the tensor has 7\n"
        "  fc.bias: axis 0: 'mlp' gives 4 coordinates, the tensor has 2"
    )
    with pytest.raises(CheckpointError, match=r"'q.weight_mask' has shape \[3\], but what else t"):
        p.apply({"q.weight": torch.zeros(6, 5), "q.weight_mask": torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r"'q.weight' is torch.sparse_coo, torch.float32; on"):
        p.apply({"q.weight": torch.eye(6, 5).to_sparse()})


def test_a_state_without_a_name_of_the_spec_is_refused() -> None:
    with pytest.raises(PermutationSpecError) as error:
        some(SPEC).apply({"encoder.weight": torch.zeros(4)})
    assert str(error.value) == (
        "none of its 1 tensors is in the permutation spec of toy: it has 'encoder.weight', the "
        "spec 'q.weight'"
    )
    with pytest.raises(PermutationSpecError, match="it has 'no tensor'"):
        some(SPEC).apply({})


# ---------------------------------------------------------------------------- from file to file


def weights(folder: Path, **header: str) -> Path:
    checkpoints.save(folder / "w.safetensors", toy_state(), metadata=header)
    return folder / "w.safetensors"


def test_file_to_file_and_back_is_bit_for_bit_the_same(tmp_path: Path) -> None:
    p, source = some(SPEC), weights(tmp_path, recipe="mean", content="abc")
    done = permute_file(str(source), [p])
    assert done.out == tmp_path / "w.permuted.safetensors"
    assert (done.parts[0].found, done.parts[0].moved) == (4, 4)
    assert same(checkpoints.load_state(done.out), dict(sorted(p.apply(toy_state()).items())))
    assert checkpoints.load_metadata(done.out) == {
        "format": "pt", "recipe": "mean", APPLIED: json.dumps([p.sha256]),
    }  # fmt: skip
    back = permute_file(str(done.out), [p], inverse=True, out=tmp_path / "back.safetensors")
    assert same(checkpoints.load_state(back.out), checkpoints.load_state(source))
    assert APPLIED not in checkpoints.load_metadata(back.out)


def test_several_alignments_act_in_the_order_given(tmp_path: Path) -> None:
    p, q, source = some(SPEC, 1), some(SPEC, 2), weights(tmp_path)
    done = permute_file(str(source), [p, q])
    expected = q.apply(p.apply(toy_state()))
    assert same(checkpoints.load_state(done.out), dict(sorted(expected.items())))
    back = permute_file(str(done.out), [p, q], inverse=True)
    assert same(checkpoints.load_state(back.out), dict(sorted(toy_state().items())))
    assert APPLIED not in checkpoints.load_metadata(back.out)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_what_was_applied_is_not_applied_twice_unasked(tmp_path: Path, ending: str) -> None:
    p, q = some(SPEC, 1), some(SPEC, 2)
    once = permute_file(str(weights(tmp_path)), [p], out=tmp_path / f"once{ending}").out
    with pytest.raises(CheckpointError) as error:
        permute_file(str(once), [p])
    assert str(error.value) == (
        f"{once}: this alignment was applied to it already, and applying it twice gives neither "
        "the aligned network nor the first; undo it with --inverse, or apply it --again if that "
        "is what you want"
    )
    both = permute_file(str(once), [q]).out
    with pytest.raises(CheckpointError, match="this alignment was applied to it already"):
        permute_file(str(both), [p])
    twice = permute_file(str(both), [p], again=True, out=tmp_path / f"twice{ending}").out
    assert same(
        dict(sorted(checkpoints.load(str(twice)).state.items())),
        dict(sorted((p @ q @ p).apply(toy_state()).items())),
    )
    undone = permute_file(str(weights(tmp_path)), [p], inverse=True, out=tmp_path / f"u{ending}")
    with pytest.raises(CheckpointError, match=r"the inverse of this alignment .* without --inv"):
        permute_file(str(undone.out), [p], inverse=True)


def test_an_alignment_that_is_its_own_inverse_is_undone_only_when_asked(tmp_path: Path) -> None:
    swap = Alignment({**SPEC.identity(), "mlp": Permutation([1, 0, 2, 3])}, SPEC)
    assert swap == swap.inverse()
    once = permute_file(str(weights(tmp_path)), [swap]).out
    with pytest.raises(CheckpointError, match="already"):
        permute_file(str(once), [swap])
    back = permute_file(str(once), [swap], inverse=True)
    assert same(checkpoints.load_state(back.out), dict(sorted(toy_state().items())))


def test_the_reference_has_nothing_to_be_applied(tmp_path: Path) -> None:
    still = Alignment(SPEC.identity(), SPEC)
    done = permute_file(str(weights(tmp_path)), [still])
    assert (done.parts[0].found, done.parts[0].moved) == (4, 0)
    assert APPLIED not in checkpoints.load_metadata(done.out)
    permute_file(str(done.out), [still])


def test_files_are_not_overwritten_unasked(tmp_path: Path) -> None:
    p, source = some(SPEC), weights(tmp_path)
    permute_file(str(source), [p])
    with pytest.raises(RunError) as error:
        permute_file(str(source), [p])
    assert str(error.value) == (
        f"{tmp_path / 'w.permuted.safetensors'}: is there already; choose another file with "
        "--out, or replace it with --force"
    )
    with pytest.raises(RunError, match="is the file to be permuted; choose another"):
        permute_file(str(source), [p], out=source)
    with pytest.raises(RunError, match="is a folder; name a file"):
        (tmp_path / "x.pth").mkdir()
        permute_file(str(source), [p], out=tmp_path / "x.pth")
    with pytest.raises(SpecError, match="not a checkpoint by its name; expected an ending among"):
        permute_file(str(source), [p], out=tmp_path / "x.txt")
    permute_file(str(source), [p], out=source, force=True)
    with pytest.raises(CheckpointError, match="already"):  # --force does not mean twice
        permute_file(str(source), [p], out=source, force=True)


def test_only_files_and_only_what_safetensors_can_hold(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="only files can be permuted"):
        permute_file("hf-hub:org/id", [some(SPEC)])
    torch.save({"state_dict": toy_state(), "epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(SpecError, match="there is more in the file that was permuted"):
        permute_file(str(tmp_path / "w.pth"), [some(SPEC)], out=tmp_path / "w.safetensors")
    torch.save(toy_state(), tmp_path / "flat.pth")
    done = permute_file(str(tmp_path / "flat.pth"), [some(SPEC)], out=tmp_path / "w.safetensors")
    expected = some(SPEC).apply(toy_state())
    assert same(checkpoints.load_state(done.out), dict(sorted(expected.items())))


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".pt", ".pth.tar", ".bin", ".ckpt"])
def test_the_output_stands_beside_the_input_and_is_of_its_kind(ending: str) -> None:
    assert default_output(Path(f"a/b.c{ending}")) == Path(f"a/b.c.permuted{ending}")
