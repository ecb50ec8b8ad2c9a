"""Networks of every kind that users write: recurrent, tied, parametrised, complex, data-dependent.

They take batches of shape (2, 6), or what is said.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from timm.layers import FrozenBatchNormAct2d
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torchvision.ops import FrozenBatchNorm2d


class Recurrent(nn.Module):
    """Reads the last output, or the last state, of sequences (2, 5, 6); (5, 2, 6) otherwise."""

    def __init__(
        self, kind: str, *, state: bool = False, first: bool = True, **options: Any
    ) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(6, 8, batch_first=first, **options)
        width = 8 * (1 + (self.rnn.bidirectional and not state))
        self.head = nn.Linear(width, 3)
        self.state, self.first = state, first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, state = self.rnn(x)
        if self.state:
            return self.head((state[0] if isinstance(state, tuple) else state)[-1])
        return self.head(outputs[:, -1] if self.first else outputs[-1])


class Steps(nn.Module):
    """Calls a cell in a loop over (2, 5, 6)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell = getattr(nn, kind)(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        start = x.new_zeros(len(x), 8)
        state: Any = (start, start) if isinstance(self.cell, nn.LSTMCell) else start
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class TiedWords(nn.Module):
    """A language model whose decoder is its table of words, for numbers (2, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.hidden = nn.Linear(8, 7)
        self.back = nn.Linear(7, 8)
        self.decoder = nn.Linear(8, 11, bias=False)
        self.decoder.weight = self.words.weight

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        x = self.words(numbers)
        return self.decoder(x + self.back(F.gelu(self.hidden(x))))


class TiedTransposed(nn.Module):
    """An autoencoder that decodes with the transposed weight of its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 6))
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.relu(F.linear(x, self.weight)), self.weight.t(), self.bias)


class Twice(nn.Module):
    """Calls one layer twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.middle = nn.Linear(8, 8)
        self.again = self.middle
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.middle(F.relu(self.first(x))))
        return self.head(F.relu(self.again(x)))


class Attention(nn.Module):
    """nn.MultiheadAttention on (2, 5, 6), or (5, 2, 6) if the batch is not `first`."""

    def __init__(self, *, first: bool = True, weights: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=first)
        self.head = nn.Linear(8, 3)
        self.weights, self.tokens = weights, 1 if first else 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        attended, _ = self.attention(x, x, x, need_weights=self.weights)
        return self.head((x + attended).mean(self.tokens))


class Encoder(nn.Module):
    """nn.TransformerEncoder of two layers, on what `Attention` takes."""

    def __init__(self, *, first: bool = True, norm_first: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=first, norm_first=norm_first)
        self.embed = nn.Linear(6, 8)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)
        self.tokens = 1 if first else 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(x)).mean(self.tokens))


class Causal(nn.Module):
    """A decoder with a causal mask, for numbers (2, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 11)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(numbers.shape[1])
        return self.head(self.encoder(self.words(numbers), mask=mask, is_causal=True))


class SharedHeads(nn.Module):
    """Attention on (2, 5, 6) in which two queries share each key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.norm = nn.RMSNorm(16)
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(16, 8)
        self.out = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        normed = self.norm(x)
        q, k, v = (part(normed).unflatten(-1, (-1, 4)).transpose(1, 2)
                   for part in (self.q, self.k, self.v))  # fmt: skip
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.head(x + self.out(attended.transpose(1, 2).flatten(2)))


class Crossing(nn.Module):
    """Two inputs, (2, 5, 6) and (2, 4, 5), and a number by name."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(6, 8), nn.Linear(5, 4)
        self.attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=4, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        x, y = self.one(x), self.other(y)
        attended, _ = self.attention(x, y, y, need_weights=False)
        return self.head((x + attended).mean(1)) * scale


class Optional(nn.Module):
    """A second input, (2, 5), that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(6, 8), nn.Linear(5, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        hidden = self.one(x) if y is None else self.one(x) + self.other(y)
        return self.head(F.relu(hidden))


class Several(nn.Module):
    """Gives a dictionary of outputs, one of them a list of a hidden layer and the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        hidden = F.relu(self.first(x))
        return {"logits": self.head(F.relu(self.second(hidden))), "more": [hidden, (x, None)]}


class Hidden(nn.Module):
    """A hidden layer of 8, to be overwritten in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.first(x)))


class Branching(Hidden):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        if x.sum() > 0:
            hidden = F.relu(hidden)
        return self.head(hidden)


class Cutting(Hidden):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count = int(x.abs().max().item())
        return super().forward(x)[:count]


class OutsideTorch(Hidden):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positive = np.maximum(x.numpy(), 0)
        return super().forward(torch.from_numpy(positive))


class Broken(Hidden):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.first(x.flatten()))


class WithItem(Hidden):
    """Scales by a number of its own that is taken out of a tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * x.max().item()


class WithNumpy(Hidden):
    """Scales hidden units by numbers from numpy: three by 2, the others each by its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factors = torch.from_numpy(np.array([2.0, 2, 2, 3, 4, 5, 6, 7]).astype(np.float32))
        return self.head(F.relu(self.first(x)) * factors.to(x.dtype))


class Chooses(Hidden):
    """Takes one of two layers, by the sum of its inputs, in a way that can be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x).relu()
        branches = (lambda h: self.one(h).relu(), lambda h: self.other(h).tanh())
        return self.head(torch.cond(x.sum() > 0, *branches, (h,)))


class Loops(nn.Module):
    """Python loops over layers and over numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, 8) for n in (6, 8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        for i in range(1, 3):
            x = x / i + x.mean()
        return self.head(x)


class Writes(Hidden):
    """Writes into parts of its hidden layer: the first four units are not like the others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x).clone()
        hidden[:, :4] = F.relu(hidden[:, :4])
        return self.head(hidden)


class Masks(Hidden):
    """Masks its first three units by writing into a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros_like(self.first(x))
        mask[:, 3:] = 1.0
        return self.head(F.relu(self.first(x) + mask))


class Overwrites(Hidden):
    """Sets a part of a bias to zero, as Swin V2 does with that of its keys."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = self.first.bias.clone()
        bias[2:5].zero_()
        return self.head(F.relu(F.linear(x, self.first.weight, bias)))


class ReadsHalf(Hidden):
    """Leaves half of a layer's units out."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(F.linear(x, self.first.weight[:4], self.first.bias[:4])))


class Registers(nn.Module):
    """Four tokens of its own in front of (2, 5, 6), and a table of positions for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.registers = nn.Parameter(torch.randn(1, 4, 8))
        self.positions = nn.Parameter(torch.randn(1, 9, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = self.registers.expand(len(x), -1, -1)
        tokens = torch.cat([own, self.embed(x)], 1) + self.positions
        return self.head(F.relu(tokens)).sum(1)


class FromParameter(Hidden):
    """A buffer that is computed from a parameter: the skeleton has to be built in earnest."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sums", self.first.weight.detach().abs().sum(1))
        self.second = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.second(F.relu(self.first(x)) * self.sums)))


class ReadsParameter(Hidden):
    """A constructor that looks at the values of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = 8 if self.first.weight.abs().max().item() < 5 else 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.first(x))[:, : self.kept])


class Parametrised(nn.Module):
    """Two layers with weight or spectral normalisation, for (2, 6), or images (2, 3, 6, 6)."""

    def __init__(self, kind: str, *, convolution: bool = False) -> None:
        super().__init__()
        normalised = getattr(parametrizations, kind)
        self.first = normalised(nn.Conv2d(3, 8, 3) if convolution else nn.Linear(6, 8))
        self.second = normalised(nn.Linear(8, 5))
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.first(x))
        return self.head(F.relu(self.second(x.mean((2, 3)) if x.ndim == 4 else x)))


class OldNorms(Hidden):
    """The functions that came before the parametrisations."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.utils.spectral_norm(nn.Linear(8, 5))
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.second(F.relu(self.first(x)))))


class FrozenNorm(nn.Module):
    """A BatchNorm that is all buffers, for (2, 3, 6, 6)."""

    def __init__(self, norm: type[nn.Module] = FrozenBatchNormAct2d) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), norm(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.norm(self.conv(x))).mean((2, 3)))


class FrozenTorchvisionNorm(FrozenNorm):
    def __init__(self) -> None:
        super().__init__(FrozenBatchNorm2d)


class Spectrum(nn.Module):
    """Filters images (2, 3, 6, 6) by a complex weight for every frequency and channel."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 1)
        self.filter = nn.Parameter(torch.randn(8, 6, 4, dtype=torch.cfloat))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft2(self.embed(x), norm="ortho") * self.filter
        x = torch.fft.irfft2(spectrum, s=x.shape[-2:], norm="ortho")
        return self.head(F.relu(x).mean((2, 3)))


class SpectrumOfPairs(nn.Module):
    """The same, channels last, with pairs of real numbers for complex ones."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 1)
        self.filter = nn.Parameter(torch.randn(6, 4, 8, 2))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        spectrum = torch.fft.rfft2(x, dim=(1, 2)) * torch.view_as_complex(self.filter)
        x = torch.fft.irfft2(spectrum, s=x.shape[1:3], dim=(1, 2))
        return self.head(F.relu(x).mean((1, 2)))


class Complex(nn.Module):
    """Complex all through; what it gives is real."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = (nn.Linear(*n, dtype=torch.cfloat) for n in ((6, 8), (8, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x.to(torch.cfloat))
        return self.head(hidden * hidden.abs()).abs()


class Bag(nn.Module):
    """nn.EmbeddingBag, for numbers (2, 5)."""

    def __init__(self, mode: str = "mean") -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(11, 8, mode=mode)
        self.hidden, self.head = nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.hidden(self.words(numbers))))


class SparseWords(nn.Module):
    """A sparse nn.Embedding with a word for padding, for numbers (2, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8, sparse=True, padding_idx=0)
        self.head = nn.Linear(8, 3)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.words(numbers)).mean(1))


class Parameterless(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x)


class Unused(Hidden):
    """A layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Linear(8, 8)


class Auxiliary(Hidden):
    """A second head that runs in training only, behind a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.aux_hidden, self.aux_head = nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> Any:
        hidden = F.relu(self.norm(self.first(x)))
        if self.training:
            aux = F.dropout(F.relu(self.aux_hidden(hidden)), 0.0)
            return self.head(hidden), self.aux_head(aux)
        return self.head(hidden)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.LazyLinear(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.first(x)))


class Caching(Hidden):
    """Keeps something computed from a parameter, and its last hidden layer, between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(8))
        self.cache: dict[str, torch.Tensor] = {}
        self.last: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "shift" not in self.cache:
            self.cache["shift"] = 2 * self.shift
        self.last = F.relu(self.first(x) + self.cache["shift"])
        return self.head(self.last)


class Copies(nn.Module):
    """Layers copied from one another in the constructor."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(8, 8)
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.layers = nn.Sequential(copy.deepcopy(layer), nn.ReLU(), copy.deepcopy(layer))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.layers(F.relu(self.first(x)))))


class UnlikeGroups(nn.Module):
    """A convolution of three groups, the last of which is told apart, for images (3, 6, 6)."""

    input_shape = (3, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3)
        self.norm = nn.BatchNorm2d(12)
        self.grouped = nn.Conv2d(12, 18, 3, groups=3)
        self.last = nn.Linear(18, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.grouped(self.norm(self.first(x)).relu()).mean((2, 3))
        return self.last(torch.cat([y[:, :12].relu(), y[:, 12:].tanh()], 1))


class TalkingHeads(nn.Module):
    """Twelve heads share three keys, and talk in six pairs, each of two that share none."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(6, 24), nn.Linear(6, 6), nn.Linear(6, 24)
        self.talk = nn.Conv2d(12, 12, 1, groups=6)
        self.head = nn.Linear(24, 3)
        self.order = [0, 4, 1, 5, 6, 8, 7, 9, 2, 10, 3, 11]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, value = (
            f(x).unflatten(-1, (12, 2)).transpose(1, 2) for f in (self.query, self.value)
        )
        key = self.key(x).unflatten(-1, (3, 2)).transpose(1, 2).repeat_interleave(4, 1)
        scores = self.talk((query @ key.mT)[:, self.order]).softmax(-1)
        return self.head((scores @ value).transpose(1, 2).flatten(2))


class Mixture(nn.Module):
    """Four experts, each weighted by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gate, self.head = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 3)
        self.up = nn.Parameter(torch.randn(4, 8, 10))
        self.down = nn.Parameter(torch.randn(4, 10, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.embed(x))
        hidden = F.gelu(torch.einsum("bi,eih->beh", x, self.up))
        given = torch.einsum("beh,eho->beo", hidden, self.down)
        return self.head(x + torch.einsum("be,beo->bo", self.gate(x).softmax(-1), given))


class UNet(nn.Module):
    """Down and up again, with a skip, a transposed convolution and GroupNorm, for (2, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.up, self.join = nn.ConvTranspose2d(12, 6, 2, 2), nn.Conv2d(14, 10, 3, padding=1)
        self.norm, self.head = nn.GroupNorm(5, 10), nn.Conv2d(10, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = F.relu(self.down(x))
        up = F.relu(self.up(F.relu(self.bottom(F.max_pool2d(skip, 2)))))
        return self.head(F.relu(self.norm(self.join(torch.cat([skip, up], 1)))))
