"""Normalisation, reductions and gates: a channel depends on others, but on all of them alike."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from tests.derive.tiny import SIGNAL, TOKENS, VOLUME, Case, hidden, image, weight


def response(h: torch.Tensor, m: Case) -> torch.Tensor:
    """Global response norm of ConvNeXt V2, channels last."""
    size = h.norm(p=2, dim=1, keepdim=True)
    return h + m.g * (h * size / (size.mean(-1, keepdim=True) + 1e-6)) + m.b


def gated(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return one * other.sigmoid()


# fmt: off
CASES = {
    "batch norm": image("4", lambda h, m: m.n(h), n=nn.BatchNorm2d(4),
                        axes={"n.running_var": "a", "n.bias": "a"}),
    "batch norm of the batch": image("4", lambda h, m: m.n(h),
                                     n=nn.BatchNorm2d(4, track_running_stats=False)),
    "batch norm 1d": hidden("6", lambda h, m: m.n(h), n=nn.BatchNorm1d(6)),
    "batch norm of tokens": hidden("6", lambda h, m: m.n(h), shape=TOKENS, n=nn.BatchNorm1d(5)),
    "instance norm": image("4", lambda h, m: m.n(h), n=nn.InstanceNorm2d(4, affine=True)),
    "instance norm with statistics": image(
        "4", lambda h, m: m.n(h),
        n=nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
    "layer norm": hidden("6", lambda h, m: m.n(h), shape=TOKENS, n=nn.LayerNorm(6)),
    "layer norm without parameters": hidden("6", lambda h: F.layer_norm(h, (6,))),
    "layer norm over tokens and channels": hidden("6", lambda h, m: m.n(h), shape=TOKENS,
                                                  n=nn.LayerNorm([5, 6]), axes={"n.bias": "5, a"}),
    "layer norm over an image": image("4", lambda h, m: m.n(h), n=nn.LayerNorm([4, 4, 4]),
                                      axes={"n.weight": "stream, 4, 4"}),
    "rms norm": hidden("6", lambda h, m: m.n(h), n=nn.RMSNorm(6)),
    "group norm": image("2 2>2", lambda h, m: m.n(h), n=nn.GroupNorm(2, 4)),
    "group norm of one group": image("4", lambda h, m: m.n(h), n=nn.GroupNorm(1, 4)),
    "group norm of single channels": image("4", lambda h, m: m.n(h), n=nn.GroupNorm(4, 4)),
    "global response norm": hidden("6", response, shape=TOKENS, g=weight(1, 1, 6),
                                   b=weight(1, 1, 6)),
    "normalize": hidden("6", lambda h: F.normalize(h)),
    "divided by a norm": hidden(
        "6", lambda h: h / torch.linalg.vector_norm(h, dim=-1, keepdim=True)),
    "local response norm": image("", lambda h: F.local_response_norm(h, 3)),
    "softmax": hidden("6", lambda h: h.softmax(-1)),
    "softmax over tokens": hidden("6", lambda h: h.softmax(1), shape=TOKENS),
    "log softmax": hidden("6", lambda h: F.log_softmax(h, -1)),
    "running sum over channels": hidden("", lambda h: h.cumsum(-1)),
    "running sum over tokens": hidden("6", lambda h: h.cumsum(1), shape=TOKENS),
    "running product": hidden("", lambda h: h.cumprod(-1)),
    "running logsumexp": hidden("", lambda h: h.logcumsumexp(-1)),
    "gated halves": hidden("6", lambda h: F.glu(h), width=12, axes={"a.weight": "a + a, 4"}),
    "gated chunks": hidden("6", lambda h: gated(*h.chunk(2, -1)), width=12,
                           axes={"a.weight": "a + a, 4"}),
    "squeeze and excite": image(
        "3 4", lambda h, m: h * m.up(m.down(h.mean((2, 3), keepdim=True)).relu()).sigmoid(),
        down=nn.Conv2d(4, 3, 1), up=nn.Conv2d(3, 4, 1)),

    "mean over channels": hidden("6", lambda h: h - h.mean(-1, keepdim=True)),
    "mean over all": hidden("6", lambda h: h - h.mean()),
    "variance and mean": hidden("6", lambda h: h / torch.var_mean(h)[0]),
    "largest": hidden("6", lambda h: h - h.amax(-1, keepdim=True)),
    "smallest": hidden("6", lambda h: h - h.amin(-1, keepdim=True)),
    "sum of exponentials": hidden("6", lambda h: h - h.logsumexp(-1, keepdim=True)),
    "sums without NaN": hidden("6", lambda h: h - h.nansum(-1, keepdim=True) * h.nanmean()),
    "variance and deviation": hidden("6", lambda h: h / h.var(-1, keepdim=True) / h.std()),
    "product": hidden("6", lambda h: h * h.prod(-1, keepdim=True)),
    "norm of all": hidden("6", lambda h: h / torch.norm(h)),
    "any and all": hidden("6", lambda h: h + (h > 0).any(-1, keepdim=True) + (h > 9).all()),
    "largest and smallest": hidden("6", lambda h: h - torch.aminmax(h, dim=-1, keepdim=True)[0]),
    "max over channels, values only": hidden("6", lambda h: h * h.max(-1, keepdim=True)[0]),
    "max over channels with places": hidden("", lambda h: h * h.max(-1, keepdim=True)[1],
                                            unruled="max"),
    "max over tokens with places": hidden("6", lambda h: h * h.max(1, keepdim=True)[1],
                                          shape=TOKENS),
    "max of all": hidden("6", lambda h: h * h.max()),
    "max of two": hidden("6", lambda h, m: torch.max(h, m.p), p=weight(6)),
    "min over channels": hidden("6", lambda h: h * h.min(-1, keepdim=True)[0]),
    "median over channels": hidden("6", lambda h: h * h.median(-1, keepdim=True)[0]),
    "median of all": hidden("6", lambda h: h * h.median()),
    "count": hidden("6", lambda h: h * (h > 0).count_nonzero(-1)[:, None]),
    "cosine": hidden("6", lambda h, m: h * F.cosine_similarity(h, m.p[None], dim=-1)[:, None],
                     p=weight(6)),
    "argmax has no rule": hidden("", lambda h: h * h.argmax(-1, keepdim=True), unruled="argmax"),

    "max pool": image("4", lambda h: F.max_pool2d(h, 2)),
    "max pool with places": image("4", lambda h: F.max_pool2d(h, 2, return_indices=True)[0]),
    "max pool 1d": image("4", lambda h: F.max_pool1d(h, 2), shape=SIGNAL),
    "max pool 3d": image("4", lambda h: F.max_pool3d(h, 2), shape=VOLUME),
    "average pool": image("4", lambda h: F.avg_pool2d(h, 2)),
    "average pool 1d": image("4", lambda h: F.avg_pool1d(h, 2), shape=SIGNAL),
    "average pool 3d": image("4", lambda h: F.avg_pool3d(h, 2), shape=VOLUME),
    # A token sequence (n, tokens, channels) is a signal along its channels.
    "pool along channels": hidden("", lambda h: F.avg_pool1d(h, 2), 3, shape=TOKENS),
    "pool without a batch": hidden("6", lambda h: F.max_pool1d(h.mT, 2).mT, shape=(4, 4)),
    "adaptive pool": image("4", lambda h: F.adaptive_avg_pool2d(h, 1)),
    "adaptive pool 1d": image("4", lambda h: F.adaptive_avg_pool1d(h, 2), shape=SIGNAL),
    "adaptive pool 3d": image("4", lambda h: F.adaptive_avg_pool3d(h, 2), shape=VOLUME),
    "adaptive max pool": image("4", lambda h: F.adaptive_max_pool2d(h, 2)),
    "adaptive max pool 1d": image("4", lambda h: F.adaptive_max_pool1d(h, 2), shape=SIGNAL),
    "adaptive max pool 3d": image("4", lambda h: F.adaptive_max_pool3d(h, 2), shape=VOLUME),
    "power pool": image("4", lambda h: F.lp_pool2d(h, 2, 2)),
    "sampled on a grid": image("4", lambda h, m: F.grid_sample(h, m.grid, align_corners=False),
                               grid=torch.rand(2, 3, 3, 2)),
    "sampled on a grid it chooses": image(
        "4", lambda h, m: F.grid_sample(h, m.o(h).movedim(1, -1), align_corners=False),
        o=nn.Conv2d(4, 2, 1, bias=False), axes={"o.weight": "2, a, 1, 1"}),
} | {
    f"resized, {mode}, {len(shape) - 2}d": image(
        "4", partial(F.interpolate, scale_factor=2.0, mode=mode), shape=shape)
    for shape, mode in [
        (SIGNAL, "nearest"), (SIGNAL, "linear"), (SIGNAL, "nearest-exact"),
        ((2, 3, 6, 6), "nearest"), ((2, 3, 6, 6), "bilinear"), ((2, 3, 6, 6), "bicubic"),
        ((2, 3, 6, 6), "nearest-exact"),
        (VOLUME, "nearest"), (VOLUME, "trilinear"), (VOLUME, "nearest-exact"),
    ]
} | {
    f"resized without aliasing, {mode}": image(
        "4", partial(F.interpolate, size=(3, 3), mode=mode, antialias=True))
    for mode in ("bilinear", "bicubic")
}
