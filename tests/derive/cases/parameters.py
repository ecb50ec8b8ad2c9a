"""Parameters of every use, tensors that are written in place, and what is around operations."""

from typing import Any

import torch
from torch import nn
from torch.nn import Linear
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.derive.tiny import TOKENS, VECTOR, Case, hidden, image, weight

sdpa = F.scaled_dot_product_attention


def tied(*layers: Any) -> nn.ModuleList:
    for layer in layers[1:]:
        layer.weight = layers[0].weight
    return nn.ModuleList(layers)


def with_tokens(m: Any, x: torch.Tensor) -> torch.Tensor:
    h = torch.cat([m.p.expand(2, -1, -1), m.a(x)], 1)
    return m.z((h + sdpa(h, h, h))[:, m.p.shape[1] :].tanh())


def classified(m: Any, x: torch.Tensor) -> torch.Tensor:
    h = torch.cat([m.p.expand(2, -1, -1), m.a(x)], 1) + m.e
    return m.z((h + sdpa(h, h, h))[:, 0].tanh())


def shifted(h: torch.Tensor) -> torch.Tensor:
    """Tokens of some channels move on, of others back, as in spatial shift MLPs."""
    out = h.clone()
    out[:, 1:, :2] = h[:, :-1, :2]
    out[:, :-1, 2:4] = h[:, 1:, 2:4]
    return out


def added_to_a_part(h: torch.Tensor, m: Any) -> torch.Tensor:
    h[:, :2] += m.b(h.detach()).tanh()
    return h


def written_over(h: torch.Tensor, m: Any) -> torch.Tensor:
    out = h.clone()
    out[:, :3] = m.b(h)
    return out


def added_to_one(h: torch.Tensor) -> torch.Tensor:
    h[:, 2] += 1
    return h


def scaled_view(h: torch.Tensor, m: Any) -> torch.Tensor:
    h.view(2, 2, 3).mul_(m.p)
    return h


def filled(h: torch.Tensor, m: Any) -> torch.Tensor:
    out = h.new_empty(2, 9)
    out[:, :6] = h
    out[:, 6:] = m.b(h)
    return out


def counted(h: torch.Tensor, m: Any) -> torch.Tensor:
    m.n.add_(1)
    return h * m.n


def trained(m: Any, x: torch.Tensor) -> Any:
    h = m.a(x)
    h[:, :2] += 1
    out = m.z(h.tanh())
    return (out, m.y(m.n(m.b(h)).relu())) if m.training else out


def wrapped(h: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
        h = h.sin()
    with torch.no_grad():
        return h * torch.ones(6)


def with_a_constant(h: torch.Tensor) -> torch.Tensor:
    ones = torch.arange(6) * 0 + 1
    with torch.no_grad():
        return h * ones


def cast_inside(h: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return h.to(torch.float16).float() + h


def updated_inside(h: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        h[:, :2].mul_(2)
    return h


# fmt: off
CASES = {
    "scale": hidden("6", lambda h, m: h * m.p, p=weight(6)),
    "scale of an image": image("4", lambda h, m: h * m.p, p=weight(4, 1, 1),
                               axes={"p": "a, 1, 1"}),
    "one parameter for two layers": hidden("6", lambda h, m: m.b(h * m.p).tanh() * m.p,
                                           b=Linear(6, 6), p=weight(6)),
    "prelu": hidden("6", lambda h, m: m.p(h), p=nn.PReLU(6), axes={"p.weight": "a"}),
    "prelu with one slope": hidden("6", lambda h, m: m.p(h), p=nn.PReLU()),
    "prelu of a vector": Case("6", (4,), lambda m, x: m.z(m.p(m.a(x))), a=Linear(4, 6),
                              p=nn.PReLU(), z=Linear(6, 3)),
    "positions": hidden("6", lambda h, m: h + m.p, shape=TOKENS, p=weight(1, 5, 6),
                        axes={"p": "1, 5, a"}),
    "two axes at once": hidden("2 2>3", lambda h, m: (h.view(2, 2, 3) * m.p).flatten(1),
                               p=weight(2, 3), axes={"p": "p, inner(a)"}),
    "class token and positions": Case("6", TOKENS, classified, a=Linear(4, 6), p=weight(1, 1, 6),
                                      e=weight(1, 6, 6), z=Linear(6, 3)),
    # Nothing tells registers apart but their values.
    "registers": Case("3 6", TOKENS, with_tokens, a=Linear(4, 6), p=weight(1, 3, 6),
                      z=Linear(6, 3), axes={"p": "1, p, a"}),
    "tied layers": hidden("6", lambda h, m: m.t[1](m.t[0](h).tanh()),
                          t=tied(Linear(6, 6), Linear(6, 6)),
                          axes={"t.0.weight": "t.0, t.0", "t.1.weight": "t.0, t.0"}),
    "tied embedding": Case("6", torch.tensor([[1, 2]]), lambda m, x: m.t[1](m.t[0](x).tanh()),
                           t=tied(nn.Embedding(5, 6), Linear(6, 5)),
                           axes={"t.0.weight": "5, t.0", "t.1.weight": "5, t.0"}),
    "spectral norm": hidden("6 7", lambda h, m: m.b(h), 7,
                            b=parametrizations.spectral_norm(Linear(6, 7))),
    "constants": hidden("", lambda h: h * torch.arange(6)),
    "constants of two values": hidden("3 3", lambda h: h * torch.arange(6).gt(2),
                                      known="equal entries of constants are not looked for"),
    "a mean of linear outputs": Case("6", VECTOR, lambda m, x: m.z(m.a(x).sin()).mean(-1),
                                     a=Linear(4, 6), z=Linear(6, 3),
                                     known="a sum of sums has symmetries that move nothing"),
    "constants taken apart": hidden("", lambda h: h * torch.cat(torch.arange(6).split(3)[::-1])),
    "constants that are drawn": hidden("", lambda h: h * torch.rand(6)),
    "nothing yet": hidden("6", lambda h: h + 0 * torch.empty(6).nan_to_num()),
    "a number": hidden("6", lambda h: h * h.amax().item()),
    "a number as output": Case("6", VECTOR, lambda m, x: (m.z(h := m.a(x).sin()), h.amax().item()),
                               a=Linear(4, 6), z=Linear(6, 3)),
    "equal constants": hidden("6", lambda h: h * torch.full((6,), 2.0)),
    "constants of another axis": hidden("6", lambda h: h * torch.arange(5)[:, None], shape=TOKENS),
    "a buffer": hidden("", lambda h, m: h * m.p, p=torch.rand(6)),
    "frequencies of tokens": hidden("6", lambda h: torch.fft.rfft(h, dim=1).abs(), shape=TOKENS),
    "frequencies of channels": hidden("", lambda h: torch.fft.fft(h).real),
    "frequencies of an image": image(
        "4", lambda h: torch.fft.irfft2(torch.fft.rfft2(h) * (1 + 2j))),
    "complex numbers": hidden(
        "3", lambda h: torch.view_as_real(torch.view_as_complex(h.view(2, 3, 2)) ** 2).flatten(1),
        axes={"a.weight": "a * 2, 4"}),

    "axes of length 1": hidden("6", lambda h: h[None, :, None] * h[:, None, None]),
    "no second axis": Case("", VECTOR, lambda m, x: m.z(m.a(x)), a=Linear(4, 1), z=Linear(1, 3)),

    "a head that only training uses": Case("2 4 7", VECTOR, trained, a=Linear(4, 6), z=Linear(6, 3),
                                           b=Linear(6, 7), n=nn.BatchNorm1d(7), y=Linear(7, 3)),
    "shift": hidden("2 2 2", shifted, shape=TOKENS),
    # Part of `a` is only read by `b`.
    "written over": hidden("3 3 3", written_over, b=Linear(6, 3)),
    "added to a part": hidden("2 4", added_to_a_part, b=Linear(6, 2)),
    "added to one": hidden("5", added_to_one),
    "a view that is scaled": hidden("3 3>2", scaled_view, p=weight(3)),
    "written in vain": hidden("6", lambda h: (h.clone()[:, :2].mul_(2), h)[1]),
    "in place": hidden("6", lambda h, m: h.relu_().add_(m.b(h)).mul_(2), b=Linear(6, 6)),
    "in place, read by its first name": hidden("6", lambda h, m: (h.sigmoid_().add_(m.b(h)), h)[1],
                                               b=Linear(6, 6)),
    "filled part by part": hidden("3 6", filled, 9, b=Linear(6, 3)),
    "zeroed and filled": hidden("6", lambda h: h + h.clone().zero_() + h.clone().fill_(3)),
    "a buffer that counts": hidden("6", counted, n=torch.ones(())),
    "wrapped": hidden("6", wrapped),
    "wrapped with a constant": hidden("6", with_a_constant),
    "cast within a wrapper": hidden("6", cast_inside),
    "written within a wrapper": hidden("2 4", updated_inside),
    "checkpointed": hidden("6", lambda h: torch.utils.checkpoint.checkpoint(
        torch.sin, h, use_reentrant=False)),
    "a choice by values": hidden(
        "6", lambda h: torch.cond(h.sum() > 0, torch.sin, torch.cos, (h,))),
    "a choice by one value": hidden(
        "5", lambda h: torch.cond(h[0, 1] > 0, torch.sin, torch.cos, (h,)),
        axes={"a.bias": "a[0:1] + 1 + a[1:5]"}),
    "a choice of parts": hidden("3", lambda h: torch.cond(
        h.sum() > 0, lambda h: h[:, :3].sin(), lambda h: h[:, 3:].cos(), (h,)), 3),
    "drawn at random": hidden("", lambda h: h * torch.rand_like(h), unruled="rand_like"),
}
