"""Random small networks: programs of operations on tensors, with parameters where they need some.

Every program starts from an input (2, 4, 6) and keeps all tensors that it has made; a step takes
one or two of these and makes another one. The last tensor goes through a nonlinearity and a linear
head, so that whatever may be permuted on its way there stays free.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

Step = Callable[[list[torch.Tensor]], torch.Tensor]
INPUT = (2, 4, 6)
LARGEST = 400


class Program(nn.Module):
    """The steps of a program, and the parameters they use."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        self.own = nn.ParameterList()
        self.steps: list[tuple[str, Step]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = [x]
        for _, step in self.steps:
            made.append(step(made))
        return made[-1]

    def part(self, module: nn.Module) -> nn.Module:
        self.parts.append(module)
        return module

    def parameter(self, *shape: int) -> nn.Parameter:
        self.own.append(nn.Parameter(torch.randn(*shape)))
        return self.own[-1]

    def __repr__(self) -> str:
        return "Program(" + "; ".join(text for text, _ in self.steps) + ")"


class Writer:
    """Draws a program step by step."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.program = Program()
        self.shapes = [torch.Size(INPUT)]

    def pick(self, *choices: object) -> object:
        return self.draw(st.sampled_from(choices))

    def add(self, text: str, step: Step) -> None:
        made = [torch.zeros(shape) for shape in self.shapes]
        with torch.no_grad():
            shape = step(made).shape
        if shape.numel() <= LARGEST and 2 <= len(shape) <= 5:
            self.program.steps.append((f"{len(self.shapes)}: {text} -> {tuple(shape)}", step))
            self.shapes.append(shape)

    def source(self) -> int:
        """Mostly the last tensor, sometimes an older one."""
        last = len(self.shapes) - 1
        return last - self.draw(st.sampled_from([0, 0, 0, 1, 2])) if last > 2 else last

    def axis(self, shape: torch.Size) -> int:
        return self.draw(st.integers(1, len(shape) - 1))

    def step(self) -> None:
        i = self.source()
        shape = self.shapes[i]
        name = self.pick(*STEPS, *OFTEN)
        STEPS[name](self, i, shape)

    def head(self) -> None:
        inputs = self.shapes[-1][1:].numel()
        head = self.program.part(nn.Linear(inputs, 2))
        self.add("head", lambda t: head(torch.sigmoid(t[-1]).flatten(1)))


OFTEN = ("linear", "convolution", "convolution", "attention", "attention", "split_axis")
STEPS: dict[str, Callable[[Writer, int, torch.Size], None]] = {}


def step(function: Callable[[Writer, int, torch.Size], None]) -> Callable[..., None]:
    STEPS[function.__name__] = function
    return function


# ------------------------------------------------------------------------------------- products


@step
def linear(w: Writer, i: int, shape: torch.Size) -> None:
    layer = w.program.part(nn.Linear(shape[-1], w.pick(2, 3, 4, 6), bias=w.pick(True, False)))
    w.add(f"linear({i})", lambda t: torch.tanh(layer(t[i])))


@step
def linear_again(w: Writer, i: int, shape: torch.Size) -> None:
    fitting = [
        p for p in w.program.parts if isinstance(p, nn.Linear) and p.in_features == shape[-1]
    ]
    if fitting:
        layer = w.pick(*fitting)
        w.add(f"linear_again({i})", lambda t: torch.tanh(layer(t[i])))


@step
def convolution(w: Writer, i: int, shape: torch.Size) -> None:
    if len(shape) not in (3, 4):
        return
    kernel, out = w.pick(1, 3), w.pick(2, 4, 6)
    groups = w.pick(*(g for g in (1, 2, 3, 4) if shape[1] % g == 0 and out % g == 0))
    kind = {3: (nn.Conv1d, nn.ConvTranspose1d), 4: (nn.Conv2d, nn.ConvTranspose2d)}[len(shape)]
    layer = w.program.part(w.pick(*kind)(shape[1], out, kernel, padding=kernel // 2, groups=groups))
    w.add(f"{type(layer).__name__}({i}, {kernel}, groups={groups})", lambda t: layer(t[i]))


@step
def attention(w: Writer, i: int, shape: torch.Size) -> None:
    if len(shape) != 3:
        return
    heads, dim, layout = w.pick(1, 2, 3), w.pick(1, 2), w.pick(0, 1, 2)
    qkv = w.program.part(nn.Linear(shape[-1], 3 * heads * dim, bias=w.pick(True, False)))
    sizes = [(3, heads, dim), (heads, 3, dim), (heads, dim, 3)][layout]
    third = 2 + sizes.index(3, 0 if layout == 0 else 1 if layout == 1 else 2)
    norm = w.pick(None, nn.LayerNorm(dim), nn.LayerNorm([heads, dim]))
    if norm is not None:
        w.program.part(norm)
    bias = w.program.parameter(heads, 1, 1) if w.pick(True, False) else None

    def run(t: list[torch.Tensor]) -> torch.Tensor:
        q, k, v = qkv(t[i]).unflatten(-1, sizes).unbind(third)
        if norm is not None:
            q, k = norm(q), norm(k)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        if bias is None:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = (q @ k.transpose(-2, -1) * bias).softmax(-1) @ v
        return out.transpose(1, 2).flatten(2)

    w.add(f"attention({i}, {sizes}, {norm}, {bias is not None})", run)


@step
def gram(w: Writer, i: int, shape: torch.Size) -> None:
    if len(shape) == 3:
        w.add(f"gram({i})", lambda t: t[i].transpose(1, 2) @ torch.sigmoid(t[i]))


@step
def einsum(w: Writer, i: int, shape: torch.Size) -> None:
    if len(shape) == 3:
        j = w.source()
        equation = w.pick(
            "bij,bkj->bik", "bij,bik->bjk", "bij,bij->bj", "bij,bjk->bik", "bij,bkl->bjl"
        )
        with suppress(RuntimeError):
            w.add(f"einsum({equation}, {i}, {j})", lambda t: torch.einsum(equation, t[i], t[j]))


# ---------------------------------------------------------------------------------- elementwise


@step
def combine(w: Writer, i: int, shape: torch.Size) -> None:
    fitting = [j for j, s in enumerate(w.shapes) if s == shape]
    j = w.pick(*fitting)
    if w.pick("add", "gate") == "add":
        w.add(f"add({i}, {j})", lambda t: t[i] + t[j])
    else:
        w.add(f"gate({i}, {j})", lambda t: t[i] * torch.sigmoid(t[j]))


@step
def scale(w: Writer, i: int, shape: torch.Size) -> None:
    own = w.program.parameter(*(w.pick(1, n) for n in shape[1:]))
    w.add(f"scale({i}, {tuple(own.shape)})", lambda t: torch.tanh(t[i] * own + own))


@step
def constant(w: Writer, i: int, shape: torch.Size) -> None:
    axis = w.axis(shape)
    sizes = [n if a == axis else 1 for a, n in enumerate(shape)]
    w.add(f"constant({i}, {axis})", lambda t: t[i] * torch.arange(sizes[axis]).view(sizes))


# ----------------------------------------------------------------------------------- normalising


@step
def normalised(w: Writer, i: int, shape: torch.Size) -> None:
    kind = w.pick("layer", "batch", "group", "softmax", "centred", "squeeze", "max")
    axis = w.axis(shape)
    if kind == "layer":
        layer = w.program.part(nn.LayerNorm(list(shape[w.axis(shape) :])))
        w.add(f"{layer}({i})", lambda t: layer(t[i]))
    elif kind == "batch" and len(shape) == 3:
        norm = w.program.part(nn.BatchNorm1d(shape[1]))
        w.add(f"{norm}({i})", lambda t: norm(t[i]))
    elif kind == "group" and len(shape) > 2:
        groups = w.pick(*(g for g in (1, 2, 3) if shape[1] % g == 0))
        group = w.program.part(nn.GroupNorm(groups, shape[1]))
        w.add(f"{group}({i})", lambda t: group(t[i]))
    elif kind == "softmax":
        w.add(f"softmax({i}, {axis})", lambda t: t[i].softmax(axis))
    elif kind == "centred":
        w.add(f"centred({i}, {axis})", lambda t: t[i] - t[i].mean(axis, keepdim=True))
    elif kind == "squeeze":
        keep = w.pick(True, False) if len(shape) > 2 else True
        w.add(f"mean({i}, {axis}, {keep})", lambda t: t[i].mean(axis, keepdim=keep))
    else:
        w.add(f"max({i}, {axis})", lambda t: t[i] * t[i].max(axis, keepdim=True)[0])


# ----------------------------------------------------------------------------------- regrouping


@step
def permute(w: Writer, i: int, shape: torch.Size) -> None:
    order = [0, *w.draw(st.permutations(range(1, len(shape))))]
    w.add(f"permute({i}, {order})", lambda t: t[i].permute(order))


@step
def split_axis(w: Writer, i: int, shape: torch.Size) -> None:
    axis = w.axis(shape)
    factors = [f for f in (2, 3, 4) if shape[axis] % f == 0]
    if factors:
        sizes = (w.pick(*factors), -1)
        w.add(f"split_axis({i}, {axis}, {sizes})", lambda t: t[i].unflatten(axis, sizes))


@step
def merge_axes(w: Writer, i: int, shape: torch.Size) -> None:
    if len(shape) > 2:
        axis = w.draw(st.integers(1, len(shape) - 2))
        w.add(f"merge_axes({i}, {axis})", lambda t: t[i].flatten(axis, axis + 1))


@step
def reshape(w: Writer, i: int, shape: torch.Size) -> None:
    sizes = w.pick((2, -1, 2), (2, -1, 3), (2, -1, 4), (2, 2, -1), (2, 3, -1), (2, 2, 3, -1))
    with suppress(RuntimeError):
        w.add(f"reshape({i}, {sizes})", lambda t: t[i].reshape(sizes))


@step
def repeated(w: Writer, i: int, shape: torch.Size) -> None:
    axis = w.axis(shape)
    if w.pick(True, False):
        w.add(f"repeat_interleave({i}, {axis})", lambda t: t[i].repeat_interleave(2, axis))
    else:
        times = [2 if a == axis else 1 for a in range(len(shape))]
        w.add(f"repeat({i}, {axis})", lambda t: t[i].repeat(times))


@step
def opened(w: Writer, i: int, shape: torch.Size) -> None:
    axis = w.axis(shape)
    w.add(f"unsqueeze({i}, {axis})", lambda t: t[i].unsqueeze(axis))


# ------------------------------------------------------------------------------------- choosing


@step
def chosen(w: Writer, i: int, shape: torch.Size) -> None:
    axis = w.axis(shape)
    length = shape[axis]
    kind = w.pick("slice", "step", "roll", "flip", "index", "permuted", "select", "shuffle")
    if kind == "slice" and length > 1:
        start = w.draw(st.integers(0, length - 1))
        count = w.draw(st.integers(1, length - start))
        w.add(f"narrow({i}, {axis}, {start}, {count})", lambda t: t[i].narrow(axis, start, count))
    elif kind == "step":
        w.add(f"step({i}, {axis})", lambda t: t[i].transpose(0, axis)[::2].transpose(0, axis))
    elif kind == "roll":
        w.add(f"roll({i}, {axis})", lambda t: t[i].roll(1, axis))
    elif kind == "flip":
        w.add(f"flip({i}, {axis})", lambda t: t[i].flip(axis))
    elif kind == "index":
        at = torch.tensor(w.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=4)))
        w.add(f"index({i}, {axis}, {at.tolist()})", lambda t: t[i].index_select(axis, at))
    elif kind == "permuted":
        to = torch.tensor(w.draw(st.permutations(range(length))))
        w.add(f"permuted({i}, {axis}, {to.tolist()})", lambda t: t[i].index_select(axis, to))
    elif kind == "select" and len(shape) > 2:
        w.add(f"select({i}, {axis})", lambda t: t[i].select(axis, length // 2))
    elif kind == "shuffle" and length % 2 == 0 and len(shape) > 2:
        w.add(f"shuffle({i})", lambda t: F.channel_shuffle(t[i].transpose(1, axis), 2))


@step
def joined(w: Writer, i: int, shape: torch.Size) -> None:
    axis = w.axis(shape)
    fitting = [
        j
        for j, s in enumerate(w.shapes)
        if len(s) == len(shape) and all(a == axis or s[a] == n for a, n in enumerate(shape))
    ]
    j = w.pick(*fitting)
    if w.pick("cat", "cat", "stack") == "cat":
        w.add(f"cat({i}, {j}, {axis})", lambda t: torch.cat([t[i], t[j]], axis))
    elif w.shapes[j] == shape:
        w.add(f"stack({i}, {j}, {axis})", lambda t: torch.stack([t[i], t[j]], axis))


@step
def token(w: Writer, i: int, shape: torch.Size) -> None:
    axis = w.axis(shape)
    own = w.program.parameter(1, *(2 if a == axis else n for a, n in enumerate(shape) if a))
    w.add(
        f"token({i}, {axis})",
        lambda t: torch.cat([own.expand(2, *[-1] * (len(shape) - 1)), t[i]], axis),
    )


@step
def padded(w: Writer, i: int, shape: torch.Size) -> None:
    widths = [w.pick(0, 1, 2) for _ in range(2 * w.axis(shape))]
    w.add(f"pad({i}, {widths})", lambda t: F.pad(t[i], widths))


@step
def glu(w: Writer, i: int, shape: torch.Size) -> None:
    axis = w.axis(shape)
    if shape[axis] % 2 == 0:
        w.add(f"glu({i}, {axis})", lambda t: F.glu(t[i], axis))


@step
def ordered(w: Writer, i: int, shape: torch.Size) -> None:
    axis = w.axis(shape)
    w.add(f"cumsum({i}, {axis})", lambda t: t[i].cumsum(axis))


@step
def pooled(w: Writer, i: int, shape: torch.Size) -> None:
    if len(shape) == 3:
        w.add(f"pool({i})", lambda t: F.avg_pool1d(t[i], 3, 1, 1))


@step
def written(w: Writer, i: int, shape: torch.Size) -> None:
    axis = w.axis(shape)
    half = max(1, shape[axis] // 2)
    fitting = [j for j, s in enumerate(w.shapes) if s == shape]
    j = w.pick(*fitting)

    def run(t: list[torch.Tensor]) -> torch.Tensor:
        out = t[i].clone()
        out.narrow(axis, 0, half).add_(torch.sigmoid(t[j].narrow(axis, shape[axis] - half, half)))
        return out

    w.add(f"written({i}, {j}, {axis})", run)


@st.composite
def programs(draw: st.DrawFn, *, steps: int = 8) -> Program:
    """A random program of up to `steps` steps, beginning with a layer that frees an axis."""
    writer = Writer(draw)
    linear(writer, 0, writer.shapes[0])
    for _ in range(draw(st.integers(1, steps))):
        writer.step()
    writer.head()
    return writer.program
