from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from zookeeper.errors import InputError
from zookeeper.population.augment import PURPOSE, AugmentSettings, augment, draw
from zookeeper.population.randomness import stream_keys

ALL = AugmentSettings(crop_padding=2, flip=True, rotation=30.0)
SETTINGS = [
    AugmentSettings(crop_padding=4),
    AugmentSettings(flip=True),
    AugmentSettings(rotation=20.0),
    AugmentSettings(crop_padding=4, flip=True),
    ALL,
]


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("shared", [True, False])
def test_a_model_alone_equals_the_model_in_any_cohort(settings: AugmentSettings, shared: bool) -> None:
    seeds = [3, 11, 4, 3, 900]
    images = pictures(9, 3, 8, 6) if shared else pictures(5, 9, 3, 8, 6)
    together = augment(images, stream_keys(seeds, PURPOSE), 7, settings)
    order = [4, 2, 0, 1, 3]
    shuffled = augment(
        images if shared else images[order], stream_keys([seeds[i] for i in order], PURPOSE), 7, settings
    )
    assert torch.equal(shuffled, together[order])
    for number, seed in enumerate(seeds):
        alone = augment(images if shared else images[number : number + 1], stream_keys([seed], PURPOSE), 7, settings)
        assert torch.equal(alone[0], together[number])


def test_models_steps_and_images_differ() -> None:
    keys = stream_keys(range(30), PURPOSE)
    angles = torch.stack([draw(keys, step, 20, ALL).angle for step in (1, 2)])
    assert len(angles.unique()) == 2 * 30 * 20


def test_an_image_does_not_depend_on_the_size_of_its_batch() -> None:
    images, keys = pictures(12, 3, 8, 8), stream_keys([1, 2], PURPOSE)
    assert torch.equal(augment(images[:5], keys, 3, ALL), augment(images, keys, 3, ALL)[:, :5])


def test_the_purpose_keeps_the_stream_apart() -> None:
    settings = AugmentSettings(crop_padding=4, flip=True)
    ours, other = (draw(stream_keys([1], purpose), 1, 500, settings) for purpose in (PURPOSE, "dropout"))
    assert not torch.equal(ours.top, other.top)


@pytest.mark.parametrize("padding", [1, 4])
def test_crop_and_flip_equal_plain_torch_given_the_same_draws(padding: int) -> None:
    settings = AugmentSettings(crop_padding=padding, flip=True)
    images, keys = pictures(3, 10, 3, 7, 5), stream_keys([1, 2, 3], PURPOSE)
    draws = draw(keys, 5, 10, settings)
    result = augment(images, keys, 5, settings)
    for model in range(3):
        for number in range(10):
            top, left = int(draws.top[model, number]), int(draws.left[model, number])
            expected = F.pad(images[model, number], (padding,) * 4)[:, top : top + 7, left : left + 5]
            if draws.flipped[model, number]:
                expected = expected.flip(-1)
            assert torch.equal(result[model, number], expected)


def test_all_three_together_equal_one_after_the_other() -> None:
    images, keys = pictures(8, 3, 9, 9), stream_keys([5, 6], PURPOSE)
    draws, result = draw(keys, 2, 8, ALL), augment(images, keys, 2, ALL)
    turned = augment(images, keys, 2, AugmentSettings(rotation=ALL.rotation))
    for model in range(2):
        for number in range(8):
            top, left = int(draws.top[model, number]), int(draws.left[model, number])
            expected = F.pad(turned[model, number], (2,) * 4)[:, top : top + 9, left : left + 9]
            expected = expected.flip(-1) if draws.flipped[model, number] else expected
            assert torch.equal(result[model, number], expected)


@pytest.mark.parametrize("size", [(16, 16), (15, 11)])
def test_rotation_equals_torchvision_but_for_ties(size: tuple[int, int]) -> None:
    from torchvision.transforms.v2 import functional as reference

    settings = AugmentSettings(rotation=45.0)
    images, keys = pictures(20, 3, *size), stream_keys([1, 2], PURPOSE)
    angles, result = draw(keys, 1, 20, settings).angle, augment(images, keys, 1, settings)
    same = [
        (result[model, number] == reference.rotate(images[number], math.degrees(float(angles[model, number]))))
        .float()
        .mean()
        for model in range(2)
        for number in range(20)
    ]
    assert min(same) > 0.97
    assert sum(same) / len(same) > 0.995


def test_statistics_of_the_draws() -> None:
    settings = AugmentSettings(crop_padding=4, flip=True, rotation=20.0)
    draws = draw(stream_keys(range(50), PURPOSE), 1, 2000, settings)
    num = draws.flipped.numel()
    assert abs(draws.flipped.double().mean() - 0.5) < 4 * 0.5 / math.sqrt(num)
    assert (draws.flipped.double().mean(1) - 0.5).abs().max() < 5 * 0.5 / math.sqrt(2000)
    for place in (draws.top, draws.left):
        shares = torch.bincount(place.flatten(), minlength=9) / num
        assert len(shares) == 9
        assert (shares - 1 / 9).abs().max() < 5 * math.sqrt(8 / 81 / num)
    degrees = draws.angle.rad2deg()
    assert degrees.min() >= -20
    assert degrees.max() <= 20
    assert abs(degrees.mean()) < 5 * 20 / math.sqrt(3 * num)
    assert abs(degrees.std() - 20 / math.sqrt(3)) < 0.1
    stacked = torch.stack([draws.top, draws.left, draws.flipped, draws.angle]).double().flatten(1)
    assert (torch.corrcoef(stacked) - torch.eye(4, dtype=torch.float64)).abs().max() < 5 / math.sqrt(num)
    assert draws.flipped[:, 0].double().mean() > 0.2  # the first image of a batch is like the others


def test_nothing_asked_changes_nothing() -> None:
    images, keys = pictures(4, 3, 8, 8), stream_keys([1, 2], PURPOSE)
    assert not AugmentSettings().changes_images
    assert torch.equal(augment(images, keys, 1, AugmentSettings()), images.expand(2, 4, 3, 8, 8))


def test_what_comes_from_outside_is_black() -> None:
    images = torch.full((200, 1, 6, 6), 255, dtype=torch.uint8)
    result = augment(images, stream_keys([0], PURPOSE), 1, AugmentSettings(crop_padding=3))
    assert set(result.unique().tolist()) == {0, 255}
    draws = draw(stream_keys([0], PURPOSE), 1, 200, AugmentSettings(crop_padding=3))
    expected = (6 - (draws.top - 3).abs()) * (6 - (draws.left - 3).abs())
    assert torch.equal((result[:, :, 0] == 255).sum((-1, -2)), expected)


def test_input_is_left_alone() -> None:
    images = pictures(3, 2, 1, 5, 5)
    before = images.clone()
    augment(images, stream_keys([1, 2, 3], PURPOSE), 1, ALL)
    assert torch.equal(images, before)


@pytest.mark.parametrize("values", [{"crop_padding": -1}, {"rotation": -1.0}, {"rotation": 181.0}])
def test_bad_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match="augment: out of range"):
        AugmentSettings(**values)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_crops_and_flips_have_the_same_bits_on_a_gpu() -> None:
    settings, images = AugmentSettings(crop_padding=4, flip=True), pictures(5, 9, 3, 8, 8)
    on_cpu = augment(images, stream_keys(range(5), PURPOSE), 7, settings)
    on_gpu = augment(images.cuda(), stream_keys(range(5), PURPOSE, "cuda"), 7, settings)
    assert torch.equal(on_gpu.cpu(), on_cpu)
