"""EuroSAT, Tiny ImageNet and any folder of class folders, as small picture files."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zookeeper.errors import InputError
from zookeeper.images import ImageSet, Transforms, load_images

THIRDS = {"train": 0.5, "val": 0.25, "test": 0.25}
OFFICIAL = {"train": 0.75, "val": 0.25}


def write(path: Path, *, size: tuple[int, int] = (8, 6), mode: str = "RGB", seed: int = 0) -> np.ndarray:
    """Write a picture; return what a reader sees, ``[C, H, W]``."""
    rng = np.random.default_rng([seed, len(path.as_posix())])
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return seen(path)


def seen(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def load(root: Path, path: str = "set", split: dict[str, float] = THIRDS, **options: object) -> ImageSet:
    return load_images("folder", split=split, seed=0, root=root, path=path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["jpg", "png", "JPEG", "bmp", "webp"])
def test_class_folders_load_in_the_order_of_names(tmp_path: Path, suffix: str) -> None:
    expected = [
        write(tmp_path / "set" / kind / f"{number}.{suffix}", seed=number)
        for kind in ("ants", "bees")
        for number in range(4)
    ]
    (tmp_path / "set" / "ants" / "readme.txt").write_text("not a picture")
    (tmp_path / "set" / "ants" / ".hidden.png").write_bytes(b"")
    (tmp_path / "set" / "notes.md").write_text("beside the classes")
    images = load(tmp_path)
    assert images.image_shape == (3, 6, 8)
    assert np.array_equal(images.images, np.stack(expected))
    assert images.labels.tolist() == [0] * 4 + [1] * 4
    assert [images.count(part) for part in ("train", "val", "test")] == [4, 2, 2]


def test_grey_stays_grey_and_a_mixture_becomes_colour(tmp_path: Path) -> None:
    grey = write(tmp_path / "grey" / "a" / "0.png", mode="L")
    write(tmp_path / "grey" / "b" / "0.png", mode="L")
    for number in range(1, 4):
        write(tmp_path / "grey" / "b" / f"{number}.png", mode="L")
    assert np.array_equal(load(tmp_path, "grey").images[:1], grey[None])
    write(tmp_path / "grey" / "b" / "4.png", mode="RGBA")
    images = load(tmp_path, "grey")
    assert images.image_shape == (3, 6, 8)
    assert np.array_equal(images.images[0], np.repeat(grey, 3, axis=0))


def test_a_palette_becomes_colour_without_a_warning(tmp_path: Path) -> None:
    for number in range(4):
        pixels = np.full((6, 8, 3), 40 * number, dtype=np.uint8)
        path = tmp_path / "set" / "a" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).quantize(4).save(path, transparency=bytes([0, 255]))
    images = load(tmp_path)
    assert images.image_shape == (3, 6, 8)
    assert images.images[:, :, 0, 0].tolist() == [[40 * number] * 3 for number in range(4)]


def test_an_image_far_too_large_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "set" / "a" / "0.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(InputError, match=r"a/0\.png: not a readable picture .*bomb"):
        load(tmp_path)


@pytest.mark.parametrize("parts", [("train", "test"), ("train", "val", "test"), ("train", "val")])
def test_official_parts_are_recognised(tmp_path: Path, parts: tuple[str, ...]) -> None:
    sizes = {"train": 6, "val": 2, "test": 3}
    expected = {
        part: np.stack(
            [write(tmp_path / "set" / part / k / f"{n}.png", seed=n) for k in "ab" for n in range(sizes[part])]
        )
        for part in parts
    }
    left = {"train": 0.75} | {part: 0.25 for part in ("val", "test") if part not in parts}
    split = left if len(left) > 1 else {"train": 1.0}
    images = load(tmp_path, split=split)
    for part in parts[1:]:
        assert np.array_equal(images.images[images.indices[part]], expected[part])
        assert images.labels_of(part).tolist() == [0] * sizes[part] + [1] * sizes[part]
    others = np.sort(np.concatenate([images.indices[part] for part in left]))
    assert np.array_equal(images.images[others], expected["train"])
    if "val" in parts:
        with pytest.raises(InputError, match=r"images\.split\.val: folder has an official val part"):
            load(tmp_path, split={"train": 0.8, "val": 0.2})


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    for kind in ("train", "bus"):
        for number in range(4):
            write(tmp_path / "set" / kind / f"{number}.png")
    assert load(tmp_path).num_classes == 2


def test_parts_must_fit_each_other(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write(tmp_path / "set" / part / "a" / "0.png")
    write(tmp_path / "set" / "test" / "b" / "0.png")
    with pytest.raises(InputError, match=r"test/b: this class has no training images"):
        load(tmp_path, split=OFFICIAL)
    write(tmp_path / "set" / "train" / "b" / "0.png")
    write(tmp_path / "set" / "extra" / "b" / "0.png")
    with pytest.raises(InputError, match=r"extra: beside train; expected only train, val and test"):
        load(tmp_path, split=OFFICIAL)


def test_an_empty_class_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "set" / "a" / "0.png")
    (tmp_path / "set" / "b").mkdir()
    with pytest.raises(InputError, match=r"set/b: a class without pictures; expected files that end in \.jpg"):
        load(tmp_path)


def test_no_class_at_all_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "set" / "0.png")
    with pytest.raises(InputError, match=r"no class folders in .*set"):
        load(tmp_path)


def test_different_sizes_name_two_files_and_resize_mends_them(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "set" / "a" / f"{number}.png")
    write(tmp_path / "set" / "b" / "odd.png", size=(9, 6))
    with pytest.raises(InputError, match=r"a/0\.png has 8 x 6, .*b/odd\.png has 9 x 6 .*Set images\.resize"):
        load(tmp_path)
    images = load(tmp_path, transforms=Transforms(resize=5))
    assert images.image_shape == (3, 5, 5)
    with Image.open(tmp_path / "set" / "b" / "odd.png") as picture:
        expected = np.asarray(picture.resize((5, 5), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(images.images[3], expected)


def picture_bytes(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.jpg", picture_bytes("JPEG")[:1500]),
        ("x.png", picture_bytes("PNG")[:5000]),
        ("x.png", picture_bytes("PNG")[:20]),
        ("x.png", b""),
        ("x.jpg", b"<html>not found</html>"),
        ("x.bmp", picture_bytes("BMP")[:200]),
    ],
)
def test_a_damaged_picture_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    write(tmp_path / "set" / "a" / "0.png", size=(64, 64))
    (tmp_path / "set" / "a" / name).write_bytes(data)
    with pytest.raises(InputError, match=rf"a/{name}: not a readable picture") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "set" / "a" / "0.png")
    with pytest.raises(InputError, match=r"a/0\.png: pixels of mode I;16; expected 8 bits"):
        load(tmp_path)


def test_a_path_that_is_missing_or_leads_out_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "outside" / "a" / "0.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match=r"nothing found at .*root/none.*--data-root"):
        load(tmp_path / "root", "none")
    for path in ("link", "../outside"):
        with pytest.raises(InputError, match="outside the data root"):
            load(tmp_path / "root", path)
    with pytest.raises(InputError, match=r"images\.path: missing"):
        load_images("folder", split=THIRDS, seed=0, root=tmp_path)


# --- EuroSAT --------------------------------------------------------------------------------------


def test_eurosat(tmp_path: Path) -> None:
    kinds = [f"Kind{number}" for number in range(10)]
    expected = [
        write(tmp_path / "eurosat" / "2750" / kind / f"{kind}_{n}.jpg", size=(64, 64)) for kind in kinds for n in (1, 2)
    ]
    images = load_images("eurosat", split=THIRDS, seed=0, root=tmp_path)
    assert np.array_equal(images.images, np.stack(expected))
    assert images.labels.tolist() == [number for number in range(10) for _ in (1, 2)]
    assert images.count("test") == 5
    (tmp_path / "eurosat" / "2750" / "Kind9").rename(tmp_path / "away")
    with pytest.raises(InputError, match=r"2750: expected 10 class folders, got 9"):
        load_images("eurosat", split=THIRDS, seed=0, root=tmp_path)


def test_eurosat_is_fetched_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    broken = [True]

    def stand_in(root: Path, *, download: bool) -> None:
        assert download
        for number in range(10):
            write(root / "eurosat" / "2750" / f"Kind{number}" / "0.jpg", size=(64, 64))
            if broken[0]:
                raise OSError("No space left on device")
        (root / "eurosat" / "EuroSAT.zip").write_bytes(b"archive")

    monkeypatch.setattr(datasets, "EuroSAT", stand_in)
    split = {"train": 0.8, "test": 0.2}
    with pytest.raises(InputError, match=r"eurosat: no files found in .*eurosat/2750.*download: true"):
        load_images("eurosat", split=split, seed=0, root=tmp_path)
    with pytest.raises(InputError, match="No space left on device"):
        load_images("eurosat", split=split, seed=0, root=tmp_path, download=True)
    assert list(tmp_path.iterdir()) == []
    broken[0] = False
    assert load_images("eurosat", split=split, seed=0, root=tmp_path, download=True).count("train") == 8
    assert [entry.name for entry in (tmp_path / "eurosat").iterdir()] == ["2750"]


# --- Tiny ImageNet --------------------------------------------------------------------------------


def write_tiny_imagenet(root: Path) -> tuple[np.ndarray, list[int]]:
    folder, wnids = root / "tiny-imagenet-200", ["n02", "n01", "n03"]
    pixels, labels = [], []
    for label, wnid in enumerate(wnids):
        for number in range(4):
            mode = "L" if number == 3 else "RGB"
            path = folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG"
            image = write(path, size=(64, 64), mode=mode, seed=number)
            pixels.append(np.repeat(image, 3, axis=0) if mode == "L" else image)
            labels.append(label)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("boxes")
    lines = []
    for number, label in enumerate([2, 0, 1]):
        pixels.append(write(folder / "val" / "images" / f"val_{number}.JPEG", size=(64, 64), seed=9 + number))
        labels.append(label)
        lines.append(f"val_{number}.JPEG\t{wnids[label]}\t0\t0\t62\t62\n")
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "test" / "images").mkdir(parents=True)
    return np.stack(pixels), labels


def test_tiny_imagenet(tmp_path: Path) -> None:
    pixels, labels = write_tiny_imagenet(tmp_path)
    images = load_images("tiny-imagenet", split=OFFICIAL, seed=0, root=tmp_path)
    assert np.array_equal(images.images, pixels)
    assert images.labels.tolist() == labels
    assert images.num_classes == 3
    assert images.indices["test"].tolist() == [12, 13, 14]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("val/val_annotations.txt", "val_0.JPEG\tn09\t0\n", r"val_annotations\.txt:1: expected a file name"),
        ("val/val_annotations.txt", "val_0.JPEG n01\n", r"val_annotations\.txt:1: expected a file name"),
        ("val/val_annotations.txt", "../../x.JPEG\tn01\n", r"val_annotations\.txt:1: expected a file name"),
        ("val/val_annotations.txt", "val_7.JPEG\tn01\n", r"val_7\.JPEG: not a readable picture"),
        ("wnids.txt", "n01\nn01\n", "expected different class names"),
        ("wnids.txt", "", "expected different class names"),
        ("wnids.txt", "n01\nn04\n", r"n04/images: no such folder"),
        ("wnids.txt", "n01\n\u00e9\n", "tiny-imagenet: loading from .* failed"),
    ],
)
def test_a_damaged_tiny_imagenet_is_refused(tmp_path: Path, file: str, text: str, message: str) -> None:
    write_tiny_imagenet(tmp_path)
    (tmp_path / "tiny-imagenet-200" / file).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_images("tiny-imagenet", split=OFFICIAL, seed=0, root=tmp_path)


def test_a_missing_tiny_imagenet_says_what_to_unpack(tmp_path: Path) -> None:
    for download in (False, True):
        with pytest.raises(InputError, match=r"no wnids\.txt.*cannot download it: unpack tiny-imagenet-200\.zip"):
            load_images("tiny-imagenet", split=OFFICIAL, seed=0, root=tmp_path, download=download)
    assert os.listdir(tmp_path) == []
