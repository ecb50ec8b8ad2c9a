"""Parts of an axis, other orders of it, and pieces put together."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.derive.tiny import TOKENS, Case, hidden, image, weight


def gated(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return one * other.sigmoid()


def of_numbers(groups: str, look_up: Any, **parts: Any) -> Case:
    ids = torch.tensor([[1, 2, 3], [0, 1, 4]])
    return Case(groups, ids, lambda m, x: m.z(look_up(m, x)), z=nn.Linear(6, 3), **parts)


ORDER = torch.tensor([3, 1, 5, 0, 2, 4])

# fmt: off
CASES = {
    "split": hidden("2 4", lambda h: torch.cat(h.split([2, 4], -1)[::-1], -1),
                    axes={"a.weight": "a + a_2, 4", "z.weight": "3, a_2 + a"}),
    "split evenly": hidden("2 2 2", lambda h: torch.cat(h.split(2, -1)[::-1], -1)),
    "chunk": hidden("3 3", lambda h: torch.cat(h.chunk(2, -1)[::-1], -1)),
    "tensor split": hidden("2 3", lambda h: torch.cat(h.tensor_split([2, 5], -1)[::-1], -1),
                           axes={"z.weight": "3, 1 + a_2 + a"}),
    "unbind": hidden("3", lambda h: gated(*h.view(2, 2, 3).unbind(1)), 3,
                     axes={"a.weight": "a + a, 4"}),
    "unbind and stack": hidden("3 3", lambda h: torch.stack(
        [h.view(2, 2, 3)[:, 0], h.view(2, 2, 3)[:, 1] + 1], 1).flatten(1)),
    "slice": hidden("2 4", lambda h: torch.cat([h[:, 2:], h[:, :2]], -1)),
    "split off nothing": hidden("6", lambda h: h.split([0, 6], -1)[1]),
    "inputs repeated and cut": Case(
        "5", (2, 4), lambda m, x: m.z(m.a(x.repeat_interleave(2, 1)[:, 1:7]).tanh()),
        a=nn.Linear(6, 5), z=nn.Linear(5, 3)),
    "slice with steps": hidden("3", lambda h: gated(h[:, ::2], h[:, 1::2]), 3,
                               axes={"a.weight": "a * 2, 4"}),
    "slices in opposite order": hidden(
        "3", lambda h: gated(h[:, ::2], h[:, 1::2].flip(-1)), 3,
        axes={"a.weight": "(a + a)[[0, 4, 2, 5, 1, 3]], 4"}),
    "narrow": hidden("2 4", lambda h: torch.cat([h.narrow(1, 2, 4), h.narrow(1, 0, 2)], -1)),
    "one of many": hidden("5", lambda h: h - h[:, 3:4] + h.select(1, -3)[:, None].sin(),
                          axes={"a.weight": "a[0:3] + 1 + a[3:5], 4"}),
    "no part at all": hidden("6", lambda h: torch.cat([h, h[:, 6:]], -1)),
    "only nothing": hidden("6", lambda h: h + h[:, 6:].sum()),
    "dropped": hidden("4", lambda h: h[:, :4], 4, axes={"a.bias": "a + 2"}),
    "dropped after a norm": hidden("4", lambda h, m: m.n(h)[:, :4], 4, n=nn.BatchNorm1d(6),
                                   axes={"n.weight": "a + 2"}),
    "dropped after their mean": hidden("2 4", lambda h, m: m.n(h)[:, :4], 4, n=nn.LayerNorm(6)),
    "added to its reverse": hidden("3 3>2", lambda h: h + h.flip(-1),
                                   known="what swaps a channel and its mirror image is lost"),
    "added to its neighbour": hidden("", lambda h: h + h.roll(1, -1)),
    "multiplied halves": hidden("3 3>2", lambda h: h[:, :3] * h[:, 3:], 3,
                                known="products are not known to be commutative"),

    "roll": hidden("6", lambda h: h.roll(2, -1), axes={"z.weight": "3, a[4:6] + a[0:4]"}),
    "roll over all": hidden("", lambda h: h.roll(1), unruled="roll"),
    "roll over tokens": hidden("6", lambda h: h.roll((1, 2), (0, 1)), shape=TOKENS),
    "flip": hidden("6", lambda h: h.flip(-1), axes={"z.weight": "3, a[5::-1]"}),
    "index": hidden("6", lambda h: h[:, ORDER], axes={"z.weight": "3, a[[3, 1, 5, 0, 2, 4]]"}),
    "index with repeats": hidden("3 3", lambda h: h[:, [0, 1, 2, 3, 4, 5, 0, 1, 2]], 9,
                                 axes={"z.weight": "3, a + a_2 + a"}),
    "index of one with repeats": hidden("6", lambda h: h[:, None][:, [0, 0, 0]].flatten(1), 18,
                                        axes={"z.weight": "3, 3 * a"}),
    "index of two axes": hidden("6", lambda h: h[:, ORDER.view(3, 2)].movedim(1, 2).flatten(1)),
    "index select": hidden("6", lambda h: h.index_select(-1, ORDER)),
    "index of tokens": hidden("6", lambda h: h[:, torch.tensor([4, 4, 0])], shape=TOKENS),
    "index by two": hidden("6", lambda h: h[torch.tensor([0, 1]), torch.tensor([2, 0])],
                           shape=TOKENS),
    "index of every place": hidden("", lambda h: h[:, ORDER.repeat(9)][:, :6]),
    "index of distant axes": hidden(
        "", lambda h: h.view(2, 5, 2, 3)[:, torch.tensor([0]), :, torch.tensor([1])][0], 2,
        shape=TOKENS, unruled="index"),
    "index that is computed": hidden(
        "", lambda h: h[:, (h[0, :3] > 0).long()], 3, unruled="index"),
    "index by inputs": Case("6", torch.tensor([[1, 2], [0, 1]]), lambda m, x: m.z(m.p[x]),
                            p=weight(5, 6), z=nn.Linear(6, 3), axes={"p": "5, stream"}),

    "embedding": of_numbers("6", lambda m, x: m.e(x), e=nn.Embedding(5, 6),
                            axes={"e.weight": "5, stream"}),
    "sums of embeddings": of_numbers("6", lambda m, x: m.e(x), e=nn.EmbeddingBag(5, 6)),
    "numbers that are computed": hidden(
        "", lambda h, m: m.e((h > 0).long()).sum(1), e=nn.Embedding(2, 6), unruled="embedding"),
    "sums by numbers that are computed": hidden(
        "", lambda h, m: m.e((h > 0).long()), e=nn.EmbeddingBag(2, 6), unruled="embedding_bag"),
    "windows": hidden("6", lambda h: h.unfold(1, 2, 1).mean(-1), shape=TOKENS),
    "windows of one": hidden("6", lambda h: h.unfold(1, 1, 2)[..., 0], shape=TOKENS),
    "patches": image("4", lambda h: F.unfold(h, 2).mT, z=nn.Linear(16, 3),
                     axes={"z.weight": "3, a * 4"}),
    "patches put together": image("4", lambda h: F.fold(F.unfold(h, 2, stride=2), 4, 2, stride=2)),
    "patches without a batch": Case("", (3, 4, 4), lambda m, x: F.fold(F.unfold(m.p * x, 2), 4, 2),
                                    p=weight(3, 1, 1), unruled="im2col col2im"),

    "joined": hidden("6 7", lambda h, m: torch.cat([h, m.b(h).tanh()], -1), 13, b=nn.Linear(6, 7),
                     axes={"z.weight": "3, a + b"}),
    "joined with itself": hidden("6", lambda h: torch.cat([h, h], -1), 12,
                                 axes={"z.weight": "3, a + a"}),
    "joined with itself reversed": hidden("6", lambda h: torch.cat([h, h.flip(-1)], -1), 12),
    "joined with the input": Case("6", (2, 4), lambda m, x: m.z(torch.cat([x, m.a(x)], -1)),
                                  a=nn.Linear(4, 6), z=nn.Linear(10, 3),
                                  axes={"z.weight": "3, 4 + a"}),
    "joined by other names": hidden(
        "6", lambda h: torch.concatenate([torch.concat([h, h], -1), h], -1), 18,
        axes={"z.weight": "3, 3 * a"}),
    # In each of two heads, dimensions of its own; then those that heads share.
    "joined, in heads and across": hidden(
        "2 2>3 3", lambda h, m: torch.cat(
            [h.view(2, 2, 3), (m.p[:, None] * m.q).expand(2, 2, 3)], 2).flatten(1), 12,
        p=weight(2), q=weight(3)),
    "joined, in heads with places": hidden(
        "2 2>3", lambda h, m: torch.cat([h.view(2, 2, 3) * m.p, m.c.expand(2, 2, 2)], 2).flatten(1),
        10, p=weight(2, 1), c=torch.tensor([1.0, 2.0])),
    # Nothing ties the channels of one half together.
    "joined, in heads with places and others": hidden(
        "2 6", lambda h, m: torch.cat(
            [h.view(2, 2, 3, 1) * m.q, (m.c[:, None] * m.q).expand(2, 2, 2, 2)], 2).flatten(1), 20,
        q=weight(2), c=torch.tensor([1.0, 2.0])),
    # Heads of both have dimensions of their own, on another axis each.
    "joined, heads along two axes": hidden(
        "2 2>2 2>3", lambda h, m: torch.cat(
            [h.view(2, 2, 3, 1).expand(2, 2, 3, 2), m.b(h).view(2, 2, 1, 2)], 2).flatten(1), 16,
        b=nn.Linear(6, 4)),
    "joined along tokens": hidden("6", lambda h, m: torch.cat([h, m.b(h)], 1), shape=TOKENS,
                                  b=nn.Linear(6, 6)),
    "joined with zeros": hidden("6", lambda h: torch.cat([h, torch.zeros(2, 3)], -1), 9),
    "joined, heads and all": image(
        "2 2>2 4", lambda h, m: torch.cat([m.n(h), m.b(h)], 1), 8, n=nn.GroupNorm(2, 4),
        b=nn.Conv2d(4, 4, 1)),
    "stacked and summed": hidden("6", lambda h, m: torch.stack([h, m.b(h)]).sum(0),
                                 b=nn.Linear(6, 6)),
    "stacked and flattened": hidden("6 6", lambda h, m: torch.stack([h, m.b(h)], 1).flatten(1), 12,
                                    b=nn.Linear(6, 6), axes={"z.weight": "3, a + b"}),
    "stacked and taken apart": hidden(
        "6 6", lambda h, m: torch.cat(torch.stack([h, m.b(h)]).unbind(), -1), 12,
        b=nn.Linear(6, 6)),
    "stacked with a constant": hidden(
        "6", lambda h, m: torch.stack([h, torch.ones(2, 6)], -1).flatten(1), 12),
    "channels padded on both sides, as in ResNet's option A": image(
        "2 4", lambda h, m: F.pad(h, (0, 0, 0, 0, 1, 1)) + m.b(h), 6,
        b=nn.Conv2d(4, 6, 3, padding=1),
        axes={"b.weight": "b[0:1] + stream + b[1:2], stream, 3, 3"}),
    "channels padded": hidden("6", lambda h: F.pad(h, (1, 2)), 9,
                              axes={"z.weight": "3, 1 + a + 2"}),
    "channels cropped": hidden("5", lambda h: F.pad(h, (-1, 2)), 7),
    "channels padded by reflection": hidden("", lambda h: F.pad(h, (1, 1), mode="reflect"), 8,
                                            shape=TOKENS),
    "images padded": image("4", lambda h: F.pad(h, (1, 0, 0, 2))),
    "images padded with a constant": image("4", lambda h: torch.constant_pad_nd(h, (1, 1), 2.0)),
    "images padded all round": image("4", lambda h: F.pad(h, (1, 1, 1, 1), mode="circular")),

    "flattened image": image("4", lambda h: h.flatten(1), z=nn.Linear(64, 3),
                             axes={"z.weight": "3, a * 16"}),
    "flattened channels last": image("4", lambda h: h.movedim(1, -1).flatten(1), z=nn.Linear(64, 3),
                                     axes={"z.weight": "3, 16 * a"}),
    "transposed inside": hidden("8", lambda h: h.view(2, 2, 4).mT.flatten(1), 8, width=8,
                         axes={"z.weight": "3, interleave(4, a[0:4], a[4:8])"}),
    "repeated": hidden("6", lambda h: h.repeat(1, 2), 12, axes={"z.weight": "3, a + a"}),
    "repeated many times": hidden("6", lambda h: h.repeat(1, 3), 18, axes={"z.weight": "3, 3 * a"}),
    "tiled": hidden("6", lambda h: h.tile(3), 18),
    "repeated along a new axis": hidden("6", lambda h: h.repeat(3, 1, 1), shape=(2, 4)),
    "interleaved with itself": hidden("6", lambda h: h.repeat_interleave(2, -1), 12,
                                      axes={"z.weight": "3, a * 2"}),
    "interleaved, flat": hidden("", lambda h: h.repeat_interleave(2)[:6][None],
                                unruled="repeat_interleave"),
    "expanded": hidden("6", lambda h: h[:, None].expand(2, 3, 6).flatten(1), 18,
                       axes={"z.weight": "3, 3 * a"}),
    "expanded as another": hidden("6", lambda h: h[:1].expand_as(h)),
    "broadcast": hidden("6", lambda h: torch.broadcast_to(h, (3, 2, 6))),
    "pixel shuffle": image("2", lambda h: F.pixel_shuffle(h, 2), 2, width=8,
                           axes={"a.weight": "a * 4, 3, 3, 3"}),
    "pixel unshuffle": image("4", lambda h: F.pixel_unshuffle(h, 2), 16,
                             axes={"z.weight": "2, a * 4, 1, 1"}),
    "channel shuffle": image("4", lambda h: F.channel_shuffle(h, 2)),
    "channels shuffled by hand": image(
        "4", lambda h: h.view(2, 2, 2, 4, 4).transpose(1, 2).reshape(2, 4, 4, 4)),
    "shuffled between groups": image(
        "2 2>2 2>3", lambda h, m: F.channel_shuffle(m.b(h), 2), 6, b=nn.Conv2d(4, 6, 1, groups=2)),
    "transposed by many names": hidden("6", lambda h: h.t().T.mT.adjoint().movedim(0, 1).moveaxis(
        (0, 1), (1, 0)).swapaxes(0, 1).swapdims(0, 1).transpose(0, 1).permute(1, 0)),
    "viewed by many names": hidden("6", lambda h: h.view_as(h).reshape_as(h[:, None])[:, 0].ravel()
                                   .unflatten(0, (2, 6)).squeeze().unsqueeze(0).flatten(0, 1)),
}
