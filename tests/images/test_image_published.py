"""SVHN, CIFAR, STL-10 and USPS: tiny files in the original formats, with their checksums put into torchvision."""

from __future__ import annotations

import bz2
import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from zookeeper.errors import InputError
from zookeeper.images import load_images

SPLIT = {"train": 0.75, "val": 0.25}
RNG = np.random.default_rng(0)
Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Written:
    """What was written: images ``[n, C, H, W]``, labels, how many are the test part, files."""

    images: np.ndarray
    labels: np.ndarray
    num_test: int
    files: tuple[Path, ...]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def draw(num: int, channels: int, side: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    images = RNG.integers(0, 256, (num, channels, side, side), dtype=np.uint8)
    return images, RNG.integers(0, num_classes, num)


def write_svhn(root: Path, patch: Patch) -> Written:
    from scipy import io
    from torchvision.datasets import SVHN

    (root / "svhn").mkdir(parents=True)
    parts, lists, files = [], dict(SVHN.split_list), []
    for part, num in (("train", 8), ("test", 4)):
        images, labels = draw(num, 3, 32, 10)
        labels[0] = 0
        file = root / "svhn" / f"{part}_32x32.mat"
        stored = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        io.savemat(file, {"X": images.transpose(2, 3, 1, 0), "y": stored}, do_compression=True)
        lists[part] = [lists[part][0], file.name, md5(file)]
        parts.append((images, labels))
        files.append(file)
    patch.setattr(SVHN, "split_list", lists)
    return join(parts, files)


def write_cifar(root: Path, patch: Patch, *, fine: bool) -> Written:
    from torchvision import datasets

    dataset = datasets.CIFAR100 if fine else datasets.CIFAR10
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    train, test = [name for name, _ in dataset.train_list], [name for name, _ in dataset.test_list]
    parts, files = [], []
    for name in [*train, *test]:
        images, labels = draw(4, 3, 32, 100 if fine else 10)
        entry = {"data": images.reshape(4, -1), "fine_labels" if fine else "labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(entry, protocol=2))
        parts.append((images, labels))
        files.append(folder / name)
    meta = folder / dataset.meta["filename"]
    meta.write_bytes(pickle.dumps({dataset.meta["key"]: ["a class"]}, protocol=2))
    patch.setattr(dataset, "train_list", [[name, md5(folder / name)] for name in train])
    patch.setattr(dataset, "test_list", [[name, md5(folder / name)] for name in test])
    patch.setattr(dataset, "meta", {**dataset.meta, "md5": md5(meta)})
    return join(parts, [*files, meta])


def write_stl10(root: Path, patch: Patch) -> Written:
    from torchvision.datasets import STL10

    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    parts, files = [], []
    for part, num in (("train", 8), ("test", 4)):
        images, labels = draw(num, 3, 96, 10)
        (folder / f"{part}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
        (folder / f"{part}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
        parts.append((images, labels))
        files += [folder / f"{part}_X.bin", folder / f"{part}_y.bin"]
    (folder / "unlabeled_X.bin").write_bytes(b"not needed")
    files.append(folder / "unlabeled_X.bin")
    sums = {file.name: md5(file) for file in files}
    patch.setattr(STL10, "train_list", [[name, sums[name]] for name, _ in STL10.train_list])
    patch.setattr(STL10, "test_list", [[name, sums[name]] for name, _ in STL10.test_list])
    return join(parts, files)


def write_usps(root: Path, patch: Patch) -> Written:
    from torchvision.datasets import USPS

    (root / "usps").mkdir(parents=True)
    parts, lists, files = [], dict(USPS.split_list), []
    for part, num in (("train", 8), ("test", 4)):
        images, labels = draw(num, 1, 16, 10)
        lines = []
        for image, label in zip(images, labels, strict=True):
            values = image.ravel().astype(float) / 255 * 2 - 1 + 1e-3  # the reader cuts off decimals
            fields = " ".join(f"{number}:{min(value, 1.0):.6f}" for number, value in enumerate(values, 1))
            lines.append(f"{label + 1} {fields}\n")
        file = root / "usps" / lists[part][1]
        file.write_bytes(bz2.compress("".join(lines).encode()))
        lists[part] = [lists[part][0], file.name, md5(file)]
        parts.append((images, labels))
        files.append(file)
    patch.setattr(USPS, "split_list", lists)
    return join(parts, files)


def join(parts: list[tuple[np.ndarray, np.ndarray]], files: list[Path]) -> Written:
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Written(images, labels, len(parts[-1][1]), tuple(files))


WRITERS: dict[str, Callable[[Path, Patch], Written]] = {
    "svhn": write_svhn,
    "cifar10": lambda root, patch: write_cifar(root, patch, fine=False),
    "cifar100": lambda root, patch: write_cifar(root, patch, fine=True),
    "stl10": write_stl10,
    "usps": write_usps,
}
NUM_CLASSES = {"cifar100": 100}


@pytest.mark.parametrize("name", WRITERS)
def test_original_format_loads(name: str, tmp_path: Path, monkeypatch: Patch) -> None:
    written = WRITERS[name](tmp_path, monkeypatch)
    images = load_images(name, split=SPLIT, seed=0, root=tmp_path)
    assert np.array_equal(images.images, written.images)
    assert np.array_equal(images.labels, written.labels)
    assert images.num_classes == NUM_CLASSES.get(name, 10)
    total = len(written.labels)
    assert images.indices["test"].tolist() == list(range(total - written.num_test, total))
    assert images.count("train") + images.count("val") == total - written.num_test


@pytest.mark.parametrize("name", ["svhn", "usps"])
def test_files_may_lie_in_the_root_itself(name: str, tmp_path: Path, monkeypatch: Patch) -> None:
    written = WRITERS[name](tmp_path, monkeypatch)
    for file in written.files:
        file.rename(tmp_path / file.name)
    (tmp_path / name).rmdir()
    assert np.array_equal(load_images(name, split=SPLIT, seed=0, root=tmp_path).images, written.images)


@pytest.mark.parametrize("name", WRITERS)
def test_a_truncated_file_is_refused(name: str, tmp_path: Path, monkeypatch: Patch) -> None:
    written = WRITERS[name](tmp_path, monkeypatch)
    for file in written.files:
        data = file.read_bytes()
        file.write_bytes(data[:-3])
        with pytest.raises(InputError, match=name) as caught:
            load_images(name, split=SPLIT, seed=0, root=tmp_path)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)
        file.write_bytes(data)


@pytest.mark.parametrize("name", WRITERS)
def test_each_missing_file_is_named_and_nothing_is_made(name: str, tmp_path: Path, monkeypatch: Patch) -> None:
    written = WRITERS[name](tmp_path, monkeypatch)
    for file in written.files:
        file.rename(tmp_path / "away")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=rf"no files found in .*\(no .*{file.name}.*download: true.*--data-root"):
            load_images(name, split=SPLIT, seed=0, root=tmp_path)
        assert sorted(tmp_path.rglob("*")) == before
        (tmp_path / "away").rename(file)


def test_a_pickle_with_another_checksum_is_never_opened(tmp_path: Path, monkeypatch: Patch) -> None:
    written = WRITERS["cifar100"](tmp_path, monkeypatch)
    for file in written.files:
        data = file.read_bytes()
        file.write_bytes(f"cos\nsystem\n(S'touch {tmp_path}/executed'\ntR.".encode())
        with pytest.raises(InputError, match="cifar100"):
            load_images("cifar100", split=SPLIT, seed=0, root=tmp_path)
        assert not (tmp_path / "executed").exists()
        file.write_bytes(data)


def test_labels_out_of_range_are_refused(tmp_path: Path, monkeypatch: Patch) -> None:
    from torchvision.datasets import STL10

    written = write_stl10(tmp_path, monkeypatch)
    labels = written.files[1]
    labels.write_bytes(bytes([11] * 8))
    monkeypatch.setattr(STL10, "train_list", [[n, md5(labels) if n == labels.name else s] for n, s in STL10.train_list])
    with pytest.raises(InputError, match=r"stl10: labels must lie in 0\.\.9, got \d\.\.10"):
        load_images("stl10", split=SPLIT, seed=0, root=tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_a_download_appears_only_when_it_is_complete(name: str, tmp_path: Path, monkeypatch: Patch) -> None:
    from torchvision import datasets

    source, root = tmp_path / "source", tmp_path / "root"
    written = WRITERS[name](source, monkeypatch)
    kind = {"svhn": "SVHN", "cifar10": "CIFAR10", "cifar100": "CIFAR100", "stl10": "STL10", "usps": "USPS"}[name]
    original = getattr(datasets, kind)
    flat = name in ("svhn", "usps")
    broken = [True]

    def stand_in(place: Path, *arguments: object, download: bool = False, **options: object) -> object:
        if download:
            for number, file in enumerate(written.files):
                target = Path(place) / (file.name if flat else file.relative_to(source))
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(file.read_bytes())
                if broken[0] and number == 1:
                    raise RuntimeError("connection lost")
            (Path(place) / "archive.tar.gz").write_bytes(b"archive")
            return None
        return original(place, *arguments, **options)

    stand_in.split_list = getattr(original, "split_list", None)  # type: ignore[attr-defined]
    monkeypatch.setattr(datasets, kind, stand_in)
    with pytest.raises(InputError, match=rf"{name}: downloading to .* failed \(connection lost\).*network"):
        load_images(name, split=SPLIT, seed=0, root=root, download=True)
    assert [path for path in root.rglob("*") if path.is_file() or path.name.startswith(".")] == []
    broken[0] = False
    images = load_images(name, split=SPLIT, seed=0, root=root, download=True)
    assert np.array_equal(images.images, written.images)
    assert sorted(p.name for p in root.rglob("*") if p.is_file()) == sorted(file.name for file in written.files)


def test_download_true_leaves_files_that_are_there(tmp_path: Path, monkeypatch: Patch) -> None:
    written = WRITERS["svhn"](tmp_path, monkeypatch)
    times = [file.stat().st_mtime_ns for file in written.files]
    load_images("svhn", split=SPLIT, seed=0, root=tmp_path, download=True)
    assert [file.stat().st_mtime_ns for file in written.files] == times
