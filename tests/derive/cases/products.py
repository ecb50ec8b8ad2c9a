"""Layers, products of tensors and einsum."""

import torch
from torch import nn
from torch.nn import Linear
from torch.nn import functional as F

from tests.derive.tiny import TOKENS, VECTOR, Case, hidden, weight


def halves(h: torch.Tensor) -> torch.Tensor:
    """Products of 12 channels with one another, one half gated by the other, and rolled."""
    return F.glu(torch.einsum("bij,bkj->bik", h, h), 1).roll(1, 2).sigmoid()


# fmt: off
CASES = {
    # Both halves of the products are written `a * a`; their copies stand in another order.
    "halves of products": Case("6", (2, 4, 5), lambda m, x: m.z(halves(m.a(x).mT).flatten(1)),
                               a=Linear(5, 12), z=Linear(72, 2)),
    "linear 1d": Case("5", (4,), lambda m, x: m.z(F.gelu(m.a(x))), a=Linear(4, 5), z=Linear(5, 3)),
    "linear 2d": hidden("6", F.gelu),
    "linear 3d": hidden("6", F.gelu, shape=TOKENS),
    "linear 4d": hidden("6", F.gelu, shape=(2, 3, 2, 4)),
    "linear 5d": hidden("6", F.gelu, shape=(2, 3, 2, 2, 4)),
    "no bias": Case("6", VECTOR, lambda m, x: m.z(m.a(x)), a=Linear(4, 6, bias=False),
                    z=Linear(6, 3, bias=False)),
    "a layer used twice": hidden("6", lambda h, m: m.b(m.b(h).tanh()), b=Linear(6, 6)),
    "one group on two axes": hidden("6", lambda h, m: h + m.b(h.tanh()), b=Linear(6, 6),
                                    axes={"b.weight": "stream, stream"}),

    "matmul 2 2": hidden("6 7", lambda h, m: h @ m.p, 7, p=weight(6, 7)),
    "matmul 1 2": hidden("6 7", lambda h, m: h[0] @ m.p, 7, p=weight(6, 7)),
    "matmul 2 1": hidden("6", lambda h, m: h * (h @ m.p)[:, None], p=weight(6)),
    "matmul 1 1": hidden("6", lambda h, m: h * (h[0] @ m.p), p=weight(6)),
    "matmul 3 2": hidden("6 7", lambda h, m: h @ m.p, 7, shape=TOKENS, p=weight(6, 7)),
    # 7 is an axis of the output.
    "matmul 2 3": hidden("6", lambda h, m: m.p @ h.mT, 5, shape=TOKENS, p=weight(7, 6)),
    "matmul 3 1": hidden("6", lambda h, m: h * (h @ m.p)[:, :, None], shape=TOKENS, p=weight(6)),
    "matmul 1 3": hidden("6", lambda h, m: h * (m.p @ h.mT)[:, :, None], shape=TOKENS, p=weight(6)),
    "matmul 3 3": hidden("6", lambda h: h @ h.mT @ h, shape=TOKENS),
    "matmul 4 3": hidden("6", lambda h: h[:, None] @ h.mT @ h, shape=TOKENS),
    "mm": hidden("6 7", lambda h, m: torch.mm(h, m.p), 7, p=weight(6, 7)),
    "mv": hidden("6", lambda h, m: h * torch.mv(h, m.p)[:, None], p=weight(6)),
    "dot": hidden("6", lambda h, m: h * torch.dot(h[0], m.p), p=weight(6)),
    "vdot": hidden("6", lambda h, m: h * torch.vdot(h[0], m.p), p=weight(6)),
    "bmm": hidden("6", lambda h: torch.bmm(torch.bmm(h, h.mT), h), shape=TOKENS),
    "addmm": hidden("6 7", lambda h, m: torch.addmm(m.b, h, m.p), 7, p=weight(6, 7), b=weight(7)),
    "baddbmm": hidden("6", lambda h: torch.baddbmm(h, h @ h.mT, h), shape=TOKENS),
    "outer": hidden("6 7", lambda h, m: torch.outer(h.tanh().sum(1), m.p), 7, p=weight(7)),
    "bilinear": Case("5 6 7", VECTOR, lambda m, x: m.z(m.two(m.a(x), m.b(x))), a=Linear(4, 5),
                     b=Linear(4, 6), two=nn.Bilinear(5, 6, 7), z=Linear(7, 3)),

    "einsum": hidden("6 7", lambda h, m: torch.einsum("bti, ij -> btj", h, m.p), 7, shape=TOKENS,
                     p=weight(6, 7)),
    "einsum with dots": hidden("6 7", lambda h, m: torch.einsum("...i,ij->...j", h, m.p), 7,
                               shape=TOKENS, p=weight(6, 7)),
    "einsum with dots twice": hidden("6", lambda h, m: torch.einsum("...i,...i->...i", h, m.p),
                                     shape=TOKENS, p=weight(6)),
    "einsum without an arrow": hidden("", lambda h, m: torch.einsum("bi,ij", h, m.p), 7,
                                      p=weight(6, 7), unruled="einsum"),
    "einsum of a diagonal": hidden("", lambda h, m: h * torch.einsum("ii->i", m.p),
                                   p=weight(6, 6), unruled="einsum"),

    "a group twice on one axis": Case(
        "6", VECTOR, lambda m, x: m.z(torch.einsum("bi,bj->bij", m.a(x), m.a(x).tanh()).flatten(1)),
        a=Linear(4, 6), z=Linear(36, 3), axes={"z.weight": "3, a * a"}),
    "two groups on one axis": Case(
        "5 6", VECTOR, lambda m, x: m.z(torch.einsum("bi,bj->bij", m.a(x), m.b(x)).flatten(1)),
        a=Linear(4, 6), b=Linear(4, 5), z=Linear(30, 3), axes={"z.weight": "3, a * b"}),
    "three groups on one axis": Case(
        "2 3 4", VECTOR, lambda m, x: m.z(
            torch.einsum("bi,bj,bk->bijk", m.a(x), m.b(x), m.c(x)).flatten(1)),
        a=Linear(4, 2), b=Linear(4, 3), c=Linear(4, 4), z=Linear(24, 3),
        axes={"z.weight": "3, a * b * c"}),
}
