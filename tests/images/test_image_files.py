from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from zookeeper.errors import InputError
from zookeeper.images import load_images
from zookeeper.images.idx import read_idx

SPLIT = {"train": 0.75, "val": 0.25}
REAL = os.environ.get("ZOO_DATA_ROOT")
needs_files = pytest.mark.skipif(REAL is None, reason="needs real image files: set ZOO_DATA_ROOT to their folder")


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_set(root: Path, *, folder: str = "MNIST/raw", compress: bool = True) -> dict[str, np.ndarray]:
    """Write 8 training and 4 test images of 5 x 5 in the original format."""
    rng = np.random.default_rng(0)
    place = root / folder
    place.mkdir(parents=True)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (8, 5, 5), dtype=np.uint8),
        "train-labels-idx1-ubyte": rng.integers(0, 10, 8, dtype=np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (4, 5, 5), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": rng.integers(0, 10, 4, dtype=np.uint8),
    }
    for name, array in arrays.items():
        data = idx_bytes(array)
        (place / (f"{name}.gz" if compress else name)).write_bytes(gzip.compress(data) if compress else data)
    return arrays


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST/raw"), ("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST/raw")]
)
def test_idx_sets_load(tmp_path: Path, name: str, folder: str, compress: bool) -> None:
    arrays = write_set(tmp_path, folder=folder, compress=compress)
    images = load_images(name, split=SPLIT, seed=0, root=tmp_path)
    assert images.image_shape == (1, 5, 5)
    assert [images.count(part) for part in ("train", "val", "test")] == [6, 2, 4]
    test = images.indices["test"]
    assert np.array_equal(images.images[test, 0], arrays["t10k-images-idx3-ubyte"])
    assert np.array_equal(images.labels[test], arrays["t10k-labels-idx1-ubyte"])
    assert np.array_equal(images.images[:8, 0], arrays["train-images-idx3-ubyte"])
    assert np.array_equal(images.labels[:8], arrays["train-labels-idx1-ubyte"])


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST/raw"), ("cifar10", "cifar-10-batches-py")])
def test_missing_files_say_where_and_what_to_do(tmp_path: Path, name: str, folder: str) -> None:
    with pytest.raises(InputError) as caught:
        load_images(name, split=SPLIT, seed=0, root=tmp_path)
    message = str(caught.value)
    assert str(tmp_path / folder) in message
    assert "download: true" in message
    assert "--data-root" in message
    assert "\n" not in message


def test_default_root_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_DATA_ROOT", raising=False)
    with pytest.raises(InputError, match="data/MNIST/raw"):
        load_images("mnist", split=SPLIT, seed=0)


def test_one_missing_file_is_named(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"\(no t10k-labels-idx1-ubyte, with or without"):
        load_images("mnist", split=SPLIT, seed=0, root=tmp_path)


def test_damaged_cifar_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(f"cos\nsystem\n(S'touch {tmp_path}/executed'\ntR.".encode())
    with pytest.raises(InputError, match=r"image set cifar10: loading from .* failed"):
        load_images("cifar10", split=SPLIT, seed=0, root=tmp_path)
    assert not (tmp_path / "executed").exists()


def test_failed_download_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried a mirror\n")

    monkeypatch.setattr(datasets, "MNIST", refuse)
    with pytest.raises(InputError, match=r"Error downloading .* network") as caught:
        load_images("mnist", split=SPLIT, seed=0, root=tmp_path, download=True)
    assert "\n" not in str(caught.value)


def test_download_is_read_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    def fetch(root: Path, *, train: bool, download: bool) -> None:
        assert download
        write_set(root)

    monkeypatch.setattr(datasets, "MNIST", fetch)
    assert load_images("mnist", split=SPLIT, seed=0, root=tmp_path, download=True).count("test") == 4


IMAGE_FILE = idx_bytes(np.arange(50, dtype=np.uint8).reshape(2, 5, 5))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("f.gz", gzip.compress(IMAGE_FILE)[:-12], "cannot be read .* download it again"),
        ("f.gz", gzip.compress(IMAGE_FILE)[:-8] + bytes(8), "cannot be read"),
        ("f.gz", IMAGE_FILE, "cannot be read .*gzip"),
        ("f.gz", b"", "got nothing"),
        ("f.gz", gzip.compress(IMAGE_FILE[:-1]), r"expected 50 bytes of data for shape \(2, 5, 5\), got only 49"),
        ("f", IMAGE_FILE[:-1], "got only 49"),
        ("f", IMAGE_FILE + b"x", "got more"),
        ("f", IMAGE_FILE[:10], "header is cut off"),
        ("f", b"", "got nothing"),
        ("f", idx_bytes(np.zeros(3, dtype=np.uint8)), r"expected first bytes 00000803 .*, got 00000801"),
        ("f", b"<html>not found</html>", "not the expected IDX file"),
        ("f", struct.pack(">HBB3I", 0, 8, 3, *(2**32 - 1,) * 3), "header claims shape"),
    ],
)
def test_damaged_idx_is_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_idx(path, num_axes=3)
    assert str(caught.value).startswith(str(path))


def test_labels_must_fit(tmp_path: Path) -> None:
    write_set(tmp_path, compress=False)
    labels = tmp_path / "MNIST/raw/train-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.zeros(7, dtype=np.uint8)))
    with pytest.raises(InputError, match="7 labels for 8 images"):
        load_images("mnist", split=SPLIT, seed=0, root=tmp_path)
    labels.write_bytes(idx_bytes(np.full(8, 11, dtype=np.uint8)))
    with pytest.raises(InputError, match=r"labels must lie in 0\.\.9"):
        load_images("mnist", split=SPLIT, seed=0, root=tmp_path)


def test_sizes_must_agree(tmp_path: Path) -> None:
    write_set(tmp_path, compress=False)
    (tmp_path / "MNIST/raw/t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((4, 6, 5), dtype=np.uint8)))
    with pytest.raises(InputError, match="expected one size"):
        load_images("mnist", split=SPLIT, seed=0, root=tmp_path)


@needs_files
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [("mnist", 0.1307, 0.3081), ("fashion-mnist", 0.2860, 0.3530)],
)
def test_real_grey_sets(name: str, mean: float, std: float) -> None:
    images = load_images(name, split={"train": 0.9, "val": 0.1}, seed=0, root=Path(str(REAL)))
    assert images.images.shape == (70_000, 1, 28, 28)
    assert [images.count(part) for part in ("train", "val", "test")] == [54_000, 6_000, 10_000]
    assert abs(images.mean[0] - mean) < 1e-3
    assert abs(images.std[0] - std) < 1e-3
    assert np.bincount(images.labels_of("test"), minlength=10).min() > 800


@needs_files
@pytest.mark.data
def test_real_cifar10() -> None:
    images = load_images("cifar10", split={"train": 0.9, "val": 0.1}, seed=0, root=Path(str(REAL)))
    assert images.images.shape == (60_000, 3, 32, 32)
    assert np.allclose(images.mean, (0.4914, 0.4822, 0.4465), atol=2e-3)
    assert np.allclose(images.std, (0.2470, 0.2435, 0.2616), atol=2e-3)
    assert np.bincount(images.labels_of("test")).tolist() == [1000] * 10
