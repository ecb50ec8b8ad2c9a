from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mergekit_perm.errors import EvaluationError
from mergekit_perm.train import Recipe
from mergekit_perm.train.augment import augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 400) -> torch.Tensor:
    return torch.arange(1, n * 2 * 4 * 5 + 1, dtype=torch.float32).reshape(n, 2, 4, 5)


def test_nothing_asked_changes_nothing_and_draws_nothing() -> None:
    draws, untouched = generator(), generator()
    x = images(3)

    assert augment(x, Recipe(), generator=draws) is x
    assert torch.rand(1, generator=draws) == torch.rand(1, generator=untouched)


def test_about_half_of_the_images_are_mirrored_left_to_right() -> None:
    x = images()
    kept = x.clone()

    found = augment(x, Recipe(flip=True), generator=generator())

    mirrored = (found == x.flip(-1)).flatten(1).all(1)
    assert torch.equal(mirrored, ~(found == x).flatten(1).all(1))
    assert 160 < mirrored.sum() < 240
    assert torch.equal(x, kept)


def test_every_crop_is_a_window_of_the_padded_image_and_all_occur() -> None:
    x = images()
    padded = F.pad(x, (1, 1, 1, 1))

    found = augment(x, Recipe(crop=1), generator=generator())

    assert found.shape == x.shape
    corners = [(row, column) for row in range(3) for column in range(3)]
    matches = torch.stack(
        [(found == padded[:, :, r : r + 4, c : c + 5]).flatten(1).all(1) for r, c in corners]
    )
    assert (matches.sum(0) == 1).all()
    assert (matches.sum(1) > 20).all()


def test_noise_is_normal_with_the_deviation_asked_for() -> None:
    x = images()

    difference = augment(x, Recipe(noise=0.25), generator=generator()).double() - x.double()

    small = augment(torch.zeros(200, 100), Recipe(noise=0.25), generator=generator())
    assert small.std().item() == pytest.approx(0.25, rel=0.02)
    assert small.mean().item() == pytest.approx(0, abs=0.01)
    assert 0 < difference.abs().max() < 2


def test_a_generator_decides_everything() -> None:
    recipe = Recipe(flip=True, crop=2, noise=0.1)

    one, same, other = (augment(images(), recipe, generator=generator(s)) for s in (1, 1, 2))

    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("recipe", [Recipe(flip=True), Recipe(crop=1)])
def test_flips_and_crops_are_for_images(recipe: Recipe) -> None:
    with pytest.raises(EvaluationError) as error:
        augment(torch.zeros(3, 64), recipe, generator=generator())

    assert str(error.value) == (
        "flip and crop need images of shape (channels, height, width), but the inputs are (64,); "
        "set flip: false and crop: 0"
    )
