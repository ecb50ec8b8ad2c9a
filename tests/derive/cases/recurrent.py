"""Recurrent layers: every layer and direction has units of its own."""

from typing import Any

import torch
from torch import nn
from torch.nn import Linear

from tests.derive.tiny import TOKENS, Case, Function, weight


def layers(groups: str, kind: str, function: Function, out: int = 5, **how: Any) -> Case:
    more = {"unruled": how.pop("unruled", "")}
    parts = {"r": getattr(nn, kind)(4, 5, batch_first=True, **how), "z": Linear(out, 3)}
    return Case(groups, TOKENS, lambda m, x: m.z(function(m, x).tanh()), **parts, **more)


def states(m: Any, x: torch.Tensor) -> list[torch.Tensor]:
    found = m.r(x)[1]
    return list(found) if isinstance(found, tuple) else [found]


def all_layers(m: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(states(m, x)[0]), -1)


def cell(kind: str, **how: Any) -> Case:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        state: Any = (x.new_zeros(2, 5),) * 2 if kind == "LSTMCell" else x.new_zeros(2, 5)
        for token in x.unbind(1):
            state = m.r(token, state)
        return m.z(state[0] if kind == "LSTMCell" else state)

    return Case("5", TOKENS, forward, r=getattr(nn, kind)(4, 5, **how), z=Linear(5, 3))


def given(expected: str, start: Function, **more: Any) -> Case:
    return Case(
        expected,
        TOKENS,
        lambda m, x: m.z(m.r(x, start(m, x))[0]),
        r=nn.GRU(4, 5, batch_first=True),
        z=Linear(5, 3),
        **more,
    )


# fmt: off
CASES = {
    "LSTM": layers("5", "LSTM", lambda m, x: m.r(x)[0]),
    "GRU": layers("5", "GRU", lambda m, x: m.r(x)[0]),
    "RNN": layers("5", "RNN", lambda m, x: m.r(x)[0]),
    "RNN with ReLU": layers("5", "RNN", lambda m, x: m.r(x)[0], nonlinearity="relu"),
    "LSTM without biases": layers("5", "LSTM", lambda m, x: m.r(x)[0], bias=False),
    "LSTM of two layers": layers("5 5", "LSTM", lambda m, x: m.r(x)[0], num_layers=2),
    "GRU of two layers": layers("5 5", "GRU", lambda m, x: m.r(x)[0], num_layers=2),
    "LSTM both ways": layers("5 5", "LSTM", lambda m, x: m.r(x)[0], 10, bidirectional=True),
    "GRU of two layers both ways": layers("5 5 5 5", "GRU", lambda m, x: m.r(x)[0], 10,
                                          num_layers=2, bidirectional=True),
    "LSTM's last states": layers("5", "LSTM", lambda m, x: torch.cat(states(m, x), -1)[-1], 10),
    "GRU's last states": layers("5 5", "GRU", all_layers, 10, num_layers=2),
    # Steps have an order: only units move.
    "LSTM's steps": layers("5", "LSTM", lambda m, x: m.r(x)[0].flatten(1), 25),
    "cells of LSTM": cell("LSTMCell"),
    "cells of GRU": cell("GRUCell"),
    "cells of RNN": cell("RNNCell"),
    "cells of RNN with ReLU": cell("RNNCell", nonlinearity="relu"),
    "a learned start": given("5", lambda m, x: m.p.expand(1, 2, 5), p=weight(5)),
    "a start that the network does not choose": given(
        "", lambda m, x: x.flatten(1)[None, :, :5].contiguous()),
    "with projections": layers("", "LSTM", lambda m, x: m.r(x)[0], 3, proj_size=3, unruled="lstm"),
}
