"""Attention: how queries, keys and values lie on one axis, and what heads share."""

from typing import Any

import torch
from torch import nn
from torch.nn import Linear

from tests.derive.tiny import TOKENS, Case, Function, weight

sdpa = nn.functional.scaled_dot_product_attention


def fused(groups: str, layout: tuple[int, int, int], third: int, **more: Any) -> Case:
    """Attention of 2 heads of 3 with q, k and v in one layer."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = m.qkv(x).unflatten(-1, layout).unbind(third)
        if "norm" in more:
            q, k = m.norm(q), m.norm(k)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return m.out(sdpa(q, k, v).transpose(1, 2).flatten(2))

    parts = {"qkv": Linear(4, 18), "out": Linear(6, 3)}
    return Case(groups, TOKENS, forward, **parts, **more)


def separate(
    groups: str, function: Function, *, heads: tuple[int, int] = (2, 2), **more: Any
) -> Case:
    """Attention with a layer each for q, k and v; `heads` of 3 for queries, and for keys."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).unflatten(-1, (-1, 3)).transpose(1, 2) for layer in (m.q, m.k, m.v))
        return m.out(function(m, q, k, v).transpose(1, 2).flatten(2))

    q, kv = 3 * heads[0], 3 * heads[1]
    parts = {"q": Linear(4, q), "k": Linear(4, kv), "v": Linear(4, kv), "out": Linear(q, 3)}
    return Case(groups, TOKENS, forward, **parts, **more)


def unread(m: Any, x: torch.Tensor) -> torch.Tensor:
    q = m.q(x).tanh()
    sdpa(q[..., :2], q[..., 1:3], q[..., 3:])
    return m.z(m.k(q).tanh())


def of_torch(groups: str, **how: Any) -> Case:
    return Case(
        groups,
        TOKENS,
        lambda m, x: m.z(m.t(h := m.a(x), h, h, **how)[0].tanh()),
        a=Linear(4, 6),
        t=nn.MultiheadAttention(6, 2, batch_first=True),
        z=Linear(6, 3),
    )


# fmt: off
CASES = {
    "fused (3, heads, dim)": fused("2 2>3 2>3", (3, 2, 3), 2,
                                   axes={"qkv.weight": "qkv.qk + qkv.qk + qkv.vo, 4"}),
    "fused (heads, 3, dim)": fused(
        "2 2>3 2>3", (2, 3, 3), 3,
        axes={"qkv.weight": "interleave(2, qkv.qk, qkv.qk, qkv.vo), 4"}),
    "fused (heads, dim, 3)": fused(
        "2 2>3 2>3", (2, 3, 3), 4,
        axes={"qkv.weight": "interleave(6, qkv.qk, qkv.qk, qkv.vo), 4"}),
    "with a norm over dim": fused("2 2>3 3", (3, 2, 3), 2, norm=nn.LayerNorm(3),
                                  axes={"norm.weight": "norm.qk"}),
    "with a norm over heads and dim": fused("2 2>3 2>3", (3, 2, 3), 2, norm=nn.RMSNorm([2, 3]),
                                            axes={"norm.weight": "norm, inner(qkv)"}),
    "separate": separate("2 2>3 2>3", lambda m, q, k, v: sdpa(q, k, v)),
    "spelled out": separate("2 2>3 2>3", lambda m, q, k, v: (q @ k.mT / 2).softmax(-1) @ v),
    "causal": separate("2 2>3 2>3", lambda m, q, k, v: sdpa(q, k, v, is_causal=True)),
    "masked": separate("2 2>3 2>3", lambda m, q, k, v: sdpa(q, k, v, m.mask),
                       mask=torch.ones(5, 5).tril().log()),
    "with a bias per head": separate("2 2>3 2>3", lambda m, q, k, v: sdpa(q, k, v, m.p),
                                     p=weight(2, 5, 5), axes={"p": "q.heads, 5, 5"}),
    "with a table of biases per head": separate(
        "2 2>3 2>3",
        lambda m, q, k, v: sdpa(q, k, v, m.p[m.at.view(-1)].view(5, 5, 2).permute(2, 0, 1)),
        p=weight(9, 2), at=torch.arange(5)[:, None] - torch.arange(5) + 4,
        axes={"p": "9, q.heads"}),
    "with a scale per head": separate(
        "2 2>3 2>3", lambda m, q, k, v: (q @ k.mT * m.p).softmax(-1) @ v, p=weight(2, 1, 1)),
    "with an offset per head and dim": separate(
        "2 2>3 2>3", lambda m, q, k, v: sdpa(q + m.p[:, None], k, v), p=weight(2, 3),
        axes={"p": "p, inner(stream)"}),
    "mixing heads": separate(
        "2 2 2>3 2>3", lambda m, q, k, v: torch.einsum("hg,bgqk->bhqk", m.p, q @ k.mT) @ v,
        p=weight(2, 2)),
    # Two queries to each key: they have its order of dims, and one of their own.
    "shared keys": separate("2 2>2 2>3 2>3", lambda m, q, k, v: sdpa(q, k, v, enable_gqa=True),
                            heads=(4, 2)),
    "shared keys, repeated": separate(
        "2 2>2 2>3 2>3", lambda m, q, k, v: sdpa(q, *(h.repeat_interleave(2, 1) for h in (k, v))),
        heads=(4, 2)),
    "one key": separate("3 3 4", lambda m, q, k, v: sdpa(q, k.expand_as(q), v.expand_as(q)),
                        heads=(4, 1)),
    "queries reversed": separate("2 2>3 2>3", lambda m, q, k, v: sdpa(q.flip(3), k, v)),
    "rotated by constants": separate("2 2>3", lambda m, q, k, v: sdpa(q * m.c, k * m.c, v),
                                     c=torch.rand(5, 3)),
    "without heads": Case("4 5", TOKENS, lambda m, x: m.z(sdpa(m.q(x), m.k(x), m.v(x))),
                          q=Linear(4, 5), k=Linear(4, 5), v=Linear(4, 4), z=Linear(4, 3)),
    "that nothing reads": Case("4 5", TOKENS, unread, q=Linear(4, 5), k=Linear(5, 4),
                               z=Linear(4, 3)),
    "of torch": of_torch("2 2>3 2>3 6 6"),
    "of torch without weights": of_torch("2 2>3 2>3 6 6", need_weights=False),
    "a layer of torch": Case("2 2>3 2>3 6 8", TOKENS, lambda m, x: m.z(m.t(m.a(x))),
                             a=Linear(4, 6), z=Linear(6, 3),
                             t=nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)),
}
