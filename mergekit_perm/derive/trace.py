"""From a module to the graph of its operations: `torch.export` with fake tensors.

The graph holds ATen operations before decomposition (linear, conv2d, layer_norm and scaled dot
product attention stay whole), each with the source line it comes from.
"""

from __future__ import annotations

import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule, Node
from torch.nn.parameter import is_lazy

from mergekit_perm.derive.exact import clear_caches
from mergekit_perm.derive.inputs import Inputs, arguments_of
from mergekit_perm.derive.nodes import is_in_place, operation, place_of, tensors_of
from mergekit_perm.errors import DerivationError


@dataclass(frozen=True, slots=True)
class Graph:
    """A traced network.

    Attributes:
        nodes: its operations in the order in which they run, with inputs and outputs.
        sources: for every input node what it is: ("parameter", name), ("buffer", name),
            ("constant", name) or ("input", name).
        values: the values of buffers and other constants, by the name of the input node.
        outputs: the names of the nodes that the network outputs.
    """

    nodes: Sequence[Node]
    sources: Mapping[str, tuple[str, str]]
    values: Mapping[str, torch.Tensor]
    outputs: frozenset[str]

    @property
    def unread(self) -> list[str]:
        """The parameters that no operation reads."""
        inputs = [node.name for node in self.nodes if node.op == "placeholder" and not node.users]
        return [self.sources[n][1] for n in inputs if self.sources[n][0] == "parameter"]


def trace(module: nn.Module, inputs: Inputs, *, training: bool = False) -> Graph:
    """Return the graph of `module` run on `inputs`, in evaluation mode or in training mode.

    Raises:
        DerivationError: the forward pass depends on data, or cannot run; the message has the place
            in the source.
    """
    _check_shapes(module)
    clear_caches(module)  # what was computed from parameters would be taken for constants
    try:
        with _quiet(), _in_mode(module, training):
            program = torch.export.export(module, *arguments_of(inputs), strict=False)
            if _writes_into_shared_memory(program):
                # What is written in place shows in other tensors: have new tensors instead.
                program = program.run_decompositions({})
    except Exception as cause:
        raise DerivationError(_refusal(module, cause)) from cause
    program.graph.eliminate_dead_code(_matters_unread)
    for node in program.graph.nodes:
        if any(not isinstance(length, int) for t in tensors_of(node) for length in t.shape):
            where = f"{operation(node)}{place_of(node) and f', at {place_of(node)}'}"
            raise DerivationError(
                _refused(module, f"sizes depend on the values of tensors: {where}")
            )
    return _graph(program)


def _matters_unread(node: Node) -> bool:
    """Tell whether `node` does something even if nothing reads its result."""
    if is_in_place(node):
        return any(user > node for user in _target(node).users)
    return node.op in ("placeholder", "output")


def _target(node: Node) -> Node:
    """Return what an operation in place changes."""
    target = node.args[0]
    assert isinstance(target, Node)
    return target


def _writes_into_shared_memory(program: ExportedProgram) -> bool:
    """Tell whether an operation in place changes a tensor that is read later under another name."""
    for part in program.graph_module.modules():
        nodes = list(part.graph.nodes) if isinstance(part, GraphModule) else []
        last = {source: i for i, node in enumerate(nodes) for source in node.all_input_nodes}
        sharing: dict[int, list[Node]] = {}
        for number, node in enumerate(nodes):
            if is_in_place(node):
                target = _target(node)
                names = [n for memory in _memory(target) for n in sharing.get(memory, [])]
                if any(last.get(n, 0) > number for n in names if n is not target):
                    return True
                if part is not program.graph_module and any(n.op == "placeholder" for n in names):
                    return True
            for memory in _memory(node):
                sharing.setdefault(memory, []).append(node)
    return False


def _memory(node: Node) -> set[int]:
    """Return numbers of the memory in which the tensors lie that `node` gives."""
    return {tensor.untyped_storage()._cdata for tensor in tensors_of(node)}


def _check_shapes(module: nn.Module) -> None:
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor):
            raise DerivationError(
                f"'{name}' of {type(module).__name__} has no shape before the first forward pass: "
                "run the network on a batch once, where it is built"
            )


@contextmanager
def _in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Within the block, `module` is in training or in evaluation mode."""
    before = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, mode in before.items():
            part.training = mode


def _graph(program: ExportedProgram) -> Graph:
    kinds = {
        InputKind.PARAMETER: "parameter",
        InputKind.BUFFER: "buffer",
        InputKind.CONSTANT_TENSOR: "constant",
    }
    sources: dict[str, tuple[str, str]] = {}
    values: dict[str, torch.Tensor] = {}
    for spec in program.graph_signature.input_specs:
        kind = kinds.get(spec.kind, "input")
        sources[spec.arg.name] = (kind, spec.target or spec.arg.name)
        if kind in ("buffer", "constant"):
            value = program.state_dict.get(spec.target or "")
            value = program.constants.get(spec.target or "") if value is None else value
            if isinstance(value, torch.Tensor):
                values[spec.arg.name] = value
    outputs = frozenset(map(str, program.graph_signature.user_outputs))
    return Graph(list(program.graph.nodes), sources, values, outputs)


def _refusal(module: nn.Module, cause: Exception) -> str:
    """Return what went wrong and where: the last line of the network's own code."""
    frames = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(cause.__traceback__)
        if not _LIBRARY.search(frame.filename.replace("\\", "/"))
    ]
    where = f", at {frames[-1]}" if frames else ""
    what = f"its forward pass depends on the values of tensors{where}"
    if not re.search("DataDependent|DynamicOutputShape", type(cause).__name__):
        reason = (str(cause).strip() or "no reason given").splitlines()[0]
        what = f"its forward pass fails{where}: {type(cause).__name__}: {reason}"
    return _refused(module, what)


def _refused(module: nn.Module, what: str) -> str:
    return (
        f"{type(module).__name__} cannot be traced: {what}; "
        "write its permutation spec by hand, or derive one from a module without that line"
    )


# Files that are no code of a network.
_LIBRARY = re.compile(r"/(torch|mergekit_perm/derive|contextlib|inspect)(/|\.py)|^<")


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block, the exporter's own talk is not heard."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
