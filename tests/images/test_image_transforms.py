from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zookeeper.errors import InputError
from zookeeper.images import Transforms, load_images

RNG = np.random.default_rng(0)


def pictures(channels: int, height: int, width: int, num: int = 5) -> np.ndarray:
    return RNG.integers(0, 256, (num, channels, height, width), dtype=np.uint8)


def as_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def as_array(picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (33, 29), (16, 16), (96, 96), (28, 40)])
@pytest.mark.parametrize("side", [28, 7])
def test_resize_equals_torchvision_on_pillow_images(channels: int, size: tuple[int, int], side: int) -> None:
    from torchvision import transforms

    images = pictures(channels, *size)
    reference = transforms.Resize((side, side))
    expected = np.stack([as_array(reference(as_pillow(image))) for image in images])
    assert np.array_equal(Transforms(resize=side).apply(images, "toy"), expected)


def test_resize_is_close_to_antialiased_torch() -> None:
    images = pictures(3, 32, 32)
    reference = torch.nn.functional.interpolate(
        torch.from_numpy(images).float(), (28, 28), mode="bilinear", antialias=True
    )
    assert np.abs(Transforms(resize=28).apply(images, "toy") - reference.numpy()).max() <= 1.01


def test_two_channels_are_resized_each_on_its_own() -> None:
    images = pictures(2, 9, 9)
    resize = Transforms(resize=5)
    alone = np.concatenate([resize.apply(images[:, channel : channel + 1], "toy") for channel in (0, 1)], axis=1)
    assert np.array_equal(resize.apply(images, "toy"), alone)


@pytest.mark.parametrize("size", [(32, 32), (33, 31), (28, 28), (29, 35), (30, 30)])
def test_crop_equals_torchvision(size: tuple[int, int]) -> None:
    from torchvision import transforms

    images = pictures(3, *size)
    expected = transforms.CenterCrop(28)(torch.from_numpy(images)).numpy()
    assert np.array_equal(Transforms(crop=28).apply(images, "toy"), expected)


def test_greyscale_equals_pillow_for_every_colour() -> None:
    values = np.arange(0, 256, 5, dtype=np.uint8)
    colours = np.stack(np.meshgrid(values, values, values), axis=-1).reshape(1, -1, 1, 3)
    images = np.ascontiguousarray(colours.transpose(0, 3, 1, 2))
    expected = np.asarray(Image.fromarray(colours[0]).convert("L"))
    assert np.array_equal(Transforms(greyscale=True).apply(images, "toy")[0, 0], expected)


def test_greyscale_of_many_images_is_that_of_each() -> None:
    images = pictures(3, 2, 2, num=9000)
    whole, grey = Transforms(greyscale=True).apply(images, "toy"), Transforms(greyscale=True)
    assert np.array_equal(whole[[0, 4095, 4096, 8999]], grey.apply(images[[0, 4095, 4096, 8999]], "toy"))


def test_the_order_is_resize_then_crop_then_greyscale() -> None:
    images = pictures(3, 40, 36)
    together = Transforms(resize=32, crop=28, greyscale=True).apply(images, "toy")
    step_by_step = images
    for one in (Transforms(resize=32), Transforms(crop=28), Transforms(greyscale=True)):
        step_by_step = one.apply(step_by_step, "toy")
    assert together.shape == (5, 1, 28, 28)
    assert np.array_equal(together, step_by_step)


def test_nothing_asked_is_nothing_done() -> None:
    images = pictures(1, 8, 8)
    for transforms in (Transforms(), Transforms(resize=8), Transforms(greyscale=True)):
        assert transforms.apply(images, "toy") is images


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (Transforms(crop=9), r"images\.crop: 9 is larger than the images of toy; expected at most 8 for 8 x 10"),
        (Transforms(resize=6, crop=7), "expected at most 6 for 6 x 6"),
        (Transforms(greyscale=True), r"images\.greyscale: images of toy have 2 channels; expected 3"),
    ],
)
def test_what_cannot_be_done_is_refused(transforms: Transforms, message: str) -> None:
    with pytest.raises(InputError, match=message):
        transforms.apply(pictures(2, 8, 10), "toy")


def test_transforms_of_a_set_come_before_its_statistics() -> None:
    split = {"train": 0.7, "val": 0.1, "test": 0.2}
    images = load_images("digits", split=split, seed=0, transforms=Transforms(crop=4))
    assert images.image_shape == (1, 4, 4)
    train = images.normalised("train").astype(np.float64)
    assert abs(train.mean()) < 1e-6
    assert abs(train.std() - 1) < 1e-6


def test_transforms_need_no_torch() -> None:
    code = (
        "import sys\nfrom zookeeper.images import Transforms, load_images\n"
        "load_images('digits', split={'train': 0.8, 'test': 0.2}, seed=0, transforms=Transforms(resize=7, crop=5))\n"
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
