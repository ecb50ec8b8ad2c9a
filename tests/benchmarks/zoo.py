"""Networks trained on digits for the benchmarks of solvers, kept in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import nn

import mergekit_perm as pm
from mergekit_perm import align, checkpoints, data, derive, evaluate, networks, train
from mergekit_perm.cache import cache_folder

State = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Kind:
    """An architecture and how its networks are trained and measured.

    Attributes:
        name: what the tables call it.
        architecture: what `networks.build` builds.
        options: of the architecture.
        recipe: of training, where it differs from the defaults of `train.Recipe`.
        calibration: of mixtures.
    """

    name: str
    architecture: str
    options: Mapping[str, Any]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    calibration: str = "none"

    def build(self, seed: int = 0) -> nn.Module:
        """Return a network that is not trained."""
        return networks.build(self.architecture, self.options, seed=seed)

    def spec(self) -> pm.PermutationSpec:
        """Return the bound permutation spec."""
        shapes = checkpoints.shapes(self.build())
        return derive.find(self.architecture, self.options, shapes).spec

    def family(self, numbers: Sequence[int]) -> dict[str, State]:
        """Return the networks of these numbers, by their seeds.

        Seeds whose training fails, with more than a tenth of its examples wrong, have no number.
        """
        seeds = self._seeds(max(numbers) + 1)
        return {f"n{seeds[number]}": self._trained(seeds[number]) for number in numbers}

    def fingerprint(self, states: Mapping[str, State]) -> str:
        """Return what tells these networks from others of the same seeds: another CPU's, say."""
        digest = hashlib.sha256()
        for state in states.values():
            for tensor in state.values():
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:12]

    def _seeds(self, count: int) -> list[int]:
        """Return the first `count` seeds that learn."""
        known = _SEEDS.setdefault(self.name, [])
        module = self.build()
        seed = known[-1] + 1 if known else 0
        while len(known) < count:
            module.load_state_dict(self._trained(seed))
            if evaluate.measure(module, digits().splits["train"]).error < 0.1:
                known.append(seed)
            seed += 1
        return known

    def _trained(self, seed: int) -> State:
        recipe = train.Recipe(**self.recipe)
        content = json.dumps([self.architecture, dict(self.options), dict(self.recipe), seed])
        key = hashlib.sha256(content.encode()).hexdigest()[:20]
        file = cache_folder("benchmarks") / f"{key}.safetensors"
        if file.is_file():
            return checkpoints.load_state(file)
        module = self.build(seed)
        train.fit(module, digits().splits["train"], recipe, seed=seed)
        state = {name: value.detach().clone() for name, value in module.state_dict().items()}
        checkpoints.save(file, state)
        return state

    def aligned(self, states: Mapping[str, State], method: str, **options: Any) -> align.Family:
        """Return the networks aligned, with the training examples at hand."""
        return align.align(
            states, self.spec(), method=method, model=self.build(), data=digits(), **options
        )

    def barriers(
        self, states: Mapping[str, State], points: Sequence[Sequence[float]], split: str
    ) -> list[float]:
        """Return the excess of the loss of every mixture over its networks' own."""
        ends = [tuple(float(i == j) for j in range(len(states))) for i in range(len(states))]
        measured = evaluate.evaluate_points(
            self.build(), list(states.values()), [*ends, *map(tuple, points)],
            {split: digits().splits[split]}, train_split=digits().splits["train"],
            calibration=self.calibration,
        )  # fmt: skip
        losses = [point[split].loss for point in measured]
        own, mixed = losses[: len(ends)], losses[len(ends) :]
        return [
            value - sum(w * o for w, o in zip(point, own, strict=True))
            for value, point in zip(mixed, points, strict=True)
        ]


def mlp(width: int, depth: int = 4) -> Kind:
    """Return an MLP with hidden layers of one width, trained from a uniform start with input noise.

    With the default learning rate of 0.1 two of three networks of width 16 fail.
    """
    options = {"in_features": 64, "hidden": [width] * depth, "num_classes": 10}
    recipe = {"noise": 0.1, "learning_rate": 0.05}
    return Kind(f"MLP, depth {depth}, width {width}", "mlp", options, recipe)


def resnet(width: int) -> Kind:
    """Return a ResNet-8 with BatchNorm; mixtures have their statistics estimated again."""
    options = {
        "depth": 8, "width": width, "norm": "batch_norm", "num_classes": 10, "in_chans": 1,
        "img_size": 8,
    }  # fmt: skip
    recipe = {"epochs": 30, "weight_decay": 5e-4}
    return Kind(f"ResNet-8, width {width}", "resnet_cifar", options, recipe, "batch_norm")


@cache
def digits() -> data.Data:
    """Return the digits, loaded once."""
    return data.load("digits")


# The seeds that learn, by kind.
_SEEDS: dict[str, list[int]] = {}
