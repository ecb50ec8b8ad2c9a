"""From a module to the graph of its operations: `torch.export` with fake tensors.

The graph holds ATen operations before decomposition (linear, conv2d, layer_norm and scaled dot
product attention stay whole), each with the source line it comes from.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from mergekit_perm.errors import DerivationError

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in \w+')


@dataclass(frozen=True, slots=True)
class Graph:
    """A traced network.

    Attributes:
        nodes: its operations in the order in which they run, with inputs and outputs.
        sources: for every input node what it is: ("parameter", name), ("buffer", name),
            ("constant", name) or ("input", name).
        values: the values of buffers and other constants, by the name of the input node.
    """

    nodes: Sequence[Node]
    sources: Mapping[str, tuple[str, str]]
    values: Mapping[str, torch.Tensor]


def trace(module: nn.Module, inputs: Sequence[Any]) -> Graph:
    """Return the graph of `module` run on `inputs`, in evaluation mode.

    Raises:
        DerivationError: the forward pass depends on data, or cannot run; the message has the place
            in the source.
    """
    try:
        with _quiet():
            program = torch.export.export(module.eval(), tuple(inputs), strict=False)
    except Exception as cause:
        raise DerivationError(_refusal(module, cause)) from cause
    return _graph(program)


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
    return Graph(list(program.graph.nodes), sources, values)


def place_of(node: Node) -> str:
    """Return the source line that `node` comes from, as ``resnet.py:147``, or ""."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    for file, line in reversed(frames):
        # The line of the network that calls a layer tells more than that of the layer.
        if "/torch/" not in file.replace("\\", "/"):
            return f"{Path(file).name}:{line}"
    return f"{Path(frames[-1][0]).name}:{frames[-1][1]}" if frames else ""


def _refusal(module: nn.Module, cause: Exception) -> str:
    frames = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in _frames(cause)
        if "/torch/" not in frame.filename.replace("\\", "/")
        and "mergekit_perm" not in frame.filename
    ]
    where = f" at {frames[-1]}" if frames else ""
    reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    return (
        f"{type(module).__name__} cannot be traced: its forward pass depends on the values of its "
        f"inputs or does not run{where}: {type(cause).__name__}: {reason}"
    )


def _frames(cause: BaseException) -> Iterator[Any]:
    import traceback

    yield from traceback.extract_tb(cause.__traceback__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block, the exporter's own talk is not heard."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
