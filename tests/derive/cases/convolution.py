"""Convolutions of every kind, and weights that are computed first."""

import torch
from torch import nn
from torch.nn import Conv1d, Conv2d, Conv3d, Linear
from torch.nn import functional as F

from tests.derive.tiny import IMAGE, SIGNAL, TOKENS, VOLUME, Case, hidden, image, weight

COPIES = [4, 0, 1, 5, 2, 6, 3, 7]

# fmt: off
CASES = {
    "dense": image("4 5", lambda h, m: m.b(h), 5, b=Conv2d(4, 5, 3)),
    "dense 1d": image("4 5", lambda h, m: m.b(h), 5, shape=SIGNAL, b=Conv1d(4, 5, 3)),
    "dense 3d": image("4 5", lambda h, m: m.b(h), 5, shape=VOLUME, b=Conv3d(4, 5, 2)),
    "padded": image("4 5", lambda h, m: m.b(h), 5, b=Conv2d(4, 5, 3, padding=1)),
    "padded by name": image("4 5", lambda h, m: m.b(h), 5, b=Conv2d(4, 5, 3, padding="same")),
    "reflecting": image("4 5", lambda h, m: m.b(h), 5,
                        b=Conv2d(4, 5, 3, padding=1, padding_mode="reflect")),
    "with strides": image("4 5", lambda h, m: m.b(h), 5, b=Conv2d(4, 5, 2, stride=2)),
    "pointwise": image("4 5", lambda h, m: m.b(h), 5, b=Conv2d(4, 5, 1)),
    "pointwise by name": image("4 5", lambda h, m: m.b(h), 5, b=Conv2d(4, 5, 1, padding="valid")),
    "pointwise with strides": image("4 5", lambda h, m: m.b(h), 5, b=Conv2d(4, 5, 1, stride=2)),
    # Tokens are the channels of this convolution, and channels its positions.
    "pointwise along channels": Case("6", TOKENS, lambda m, x: m.z(m.b(m.a(x))), a=Linear(4, 6),
                                     b=Conv1d(5, 5, 1), z=Linear(6, 3)),
    "along channels, as in ECA": image("", lambda h, m: h * torch.sigmoid(
        m.b(h.mean((2, 3))[:, None]).mT[..., None]), b=Conv1d(1, 1, 3, padding=1, bias=False)),

    "grouped": image("2 2>2 2>3", lambda h, m: m.b(h), 6, b=Conv2d(4, 6, 3, groups=2),
                     axes={"b.weight": "b, inner(a), 3, 3"}),
    "grouped pointwise": image("2 2>2 2>3", lambda h, m: m.b(h), 6, b=Conv2d(4, 6, 1, groups=2)),
    "grouped 1d": image("2 2>2 2>3", lambda h, m: m.b(h), 6, shape=SIGNAL,
                        b=Conv1d(4, 6, 3, groups=2)),
    "grouped, times ones": image("2 2>2 2>3", lambda h, m: m.b(h) * torch.ones(6, 1, 1), 6,
                                 b=Conv2d(4, 6, 1, groups=2)),
    "grouped, by weights that change": image(
        "2 2>2 2>3", lambda h, m: F.conv2d(h, m.p * h.mean(), groups=2), 6, p=weight(6, 2, 1, 1)),
    "groups told apart": image(
        "2 2 3 3", lambda h, m: torch.cat([m.b(h)[:, :3].tanh(), m.b(h)[:, 3:]], 1), 6,
        b=Conv2d(4, 6, 1, groups=2),
        axes={"a.weight": "a + a_2, 3, 3, 3", "b.weight": "b + b_2, inner(2, a + a_2), 1, 1"}),
    "groups told apart, each with heads": image(
        "2 2>2 2>2 2>3", lambda h, m: F.glu(m.b(h), 1), 6, width=8, b=Conv2d(8, 12, 1, groups=4),
        axes={"b.weight": "b + b, inner(4, a + a_2), 1, 1"}),
    # What swaps both groups is lost: their elements stand in orders of their own in `c`.
    "grouped, the second time in another order": image(
        "3 3 3 3 3 3", lambda h, m: torch.cat([m.b(h), m.c(h[:, [0, 1, 2, 4, 5, 3]])], 1), 12,
        width=6, b=Conv2d(6, 6, 1, groups=2), c=Conv2d(6, 6, 1, groups=2)),
    # Copies of a channel stand in another order in the first group: none trades places.
    "copies in groups": image(
        "2 2 2 2", lambda h, m: m.b(torch.cat([h, h.tanh()], 1)[:, COPIES]), 8,
        b=Conv2d(8, 8, 1, groups=4)),
    "groups within groups": image(
        "2 2>2 2>2>2 2>2>2 2>4", lambda h, m: m.d(m.c(h).relu()), 8, width=8,
        c=Conv2d(8, 8, 1, groups=2), d=Conv2d(8, 8, 1, groups=4)),
    # A channel group that only what is cut off depends on is a group, and proves nothing.
    "dropped with its group": image("4 4 4", lambda h, m: m.b(h)[:, :4], 4, width=8,
                                    b=Conv2d(8, 8, 1, groups=2),
                                    known="what is summed counts, even if the sum is cut off"),
    # What reverses both groups and pairs of channels is lost here and below.
    "groups of two sizes": image(
        "2 2 2 2", lambda h, m: m.b(h) + m.c(h), 6, width=6,
        b=Conv2d(6, 6, 1, groups=2), c=Conv2d(6, 6, 1, groups=3),
        axes={"c.weight": "stream + 2 + stream_2, inner(3, a + 2 + a_2), 1, 1"}),
    "grouped twice": image("2 2>2 2>3 2>4", lambda h, m: m.c(m.b(h).relu()), 8,
                           b=Conv2d(4, 6, 3, groups=2), c=Conv2d(6, 8, 1, groups=2)),
    "grouped otherwise": image("2 2 2 2 2 3 3", lambda h, m: m.c(m.b(h).relu()), 6, width=6,
                               b=Conv2d(6, 6, 1, groups=2), c=Conv2d(6, 6, 1, groups=3)),
    "depthwise": image("4", lambda h, m: m.b(h), b=Conv2d(4, 4, 3, groups=4),
                       axes={"b.weight": "stream, 1, 3, 3"}),
    "depthwise with a multiplier": image("4 4>2", lambda h, m: m.b(h), 8,
                                         b=Conv2d(4, 8, 3, groups=4)),
    "transposed": image("4 5", lambda h, m: m.b(h), 5, b=nn.ConvTranspose2d(4, 5, 2, 2)),
    "transposed 1d": image("4 5", lambda h, m: m.b(h), 5, shape=SIGNAL,
                           b=nn.ConvTranspose1d(4, 5, 2)),
    "transposed 3d": image("4 5", lambda h, m: m.b(h), 5, shape=VOLUME,
                           b=nn.ConvTranspose3d(4, 5, 1)),
    "transposed grouped": image("2 2>2 2>3", lambda h, m: m.b(h), 6,
                                b=nn.ConvTranspose2d(4, 6, 2, groups=2),
                                axes={"b.weight": "stream, inner(stream_2), 2, 2"}),
    "transposed depthwise": image("4", lambda h, m: m.b(h),
                                  b=nn.ConvTranspose2d(4, 4, 2, groups=4)),
    "without a batch": Case("", (3, 6, 6), lambda m, x: m.z(m.a(x)), a=Conv2d(3, 4, 3),
                            z=Conv2d(4, 2, 1), unruled="conv2d"),
    "transposed without a batch": Case("", (3, 6, 6), lambda m, x: m.a(x).relu(),
                                       a=nn.ConvTranspose2d(3, 4, 2), unruled="conv_transpose2d"),
    "one channel": Case("", IMAGE, lambda m, x: m.z(m.b(m.a(x))), a=Conv2d(3, 1, 3),
                        b=Conv2d(1, 1, 3), z=Conv2d(1, 2, 1)),
    "from one channel": Case("4", IMAGE, lambda m, x: m.z(m.b(m.a(x))), a=Conv2d(3, 1, 3),
                             b=Conv2d(1, 4, 3), z=Conv2d(4, 2, 1)),

    "standardised": image(
        "4 5", lambda h, m: F.conv2d(h, (m.p - m.p.mean((1, 2, 3), keepdim=True))
                                     / m.p.std((1, 2, 3), keepdim=True)), 5, p=weight(5, 4, 3, 3)),
    "standardised at once": image(
        "4 5", lambda h, m: F.conv2d(h, (m.p - torch.var_mean(m.p, (1, 2, 3), keepdim=True)[1])
                                     / torch.std_mean(m.p, (1, 2, 3), keepdim=True)[0]), 5,
        p=weight(5, 4, 3, 3)),
    "standardised in groups": image(
        "2 2>2 2>3", lambda h, m: F.conv2d(h, m.p - m.p.mean((1, 2, 3), keepdim=True), groups=2),
        6, p=weight(6, 2, 3, 3)),
    "standardised by batch norm, as in timm": image(
        "2 2>2 2>3", lambda h, m: F.conv2d(h, F.batch_norm(
            m.p.reshape(1, 6, -1), None, None, m.g, training=True).reshape_as(m.p), groups=2), 6,
        p=weight(6, 2, 3, 3), g=weight(6)),
    "weight norm": hidden("6 7", lambda h, m: F.linear(h, torch._weight_norm(m.v, m.g, 0)), 7,
                          v=weight(7, 6), g=weight(7, 1)),
}
