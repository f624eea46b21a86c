"""Decoded sets on disk: shared pages, the same bytes, never half-written."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zookeeper.images import ImageSet, Transforms, cache, load_images

SPLIT = {"train": 0.5, "val": 0.25, "test": 0.25}


@pytest.fixture(autouse=True)
def cache_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(cache, "MIN_BYTES", 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for kind in "ab":
        (tmp_path / "set" / kind).mkdir(parents=True)
        for number in range(4):
            picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            picture.save(tmp_path / "set" / kind / f"{number}.png")
    return tmp_path


def load(root: Path, transforms: Transforms = Transforms(), seed: int = 0) -> ImageSet:  # noqa: B008
    return load_images("folder", split=SPLIT, seed=seed, root=root, path="set", transforms=transforms)


def entries(root: Path) -> list[Path]:
    return sorted((root / cache.FOLDER).iterdir()) if (root / cache.FOLDER).exists() else []


def is_mapped(array: np.ndarray) -> bool:
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, mmap.mmap)


def test_pages_are_mapped_and_bytes_are_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cache, "MIN_SECONDS", 1e9)
        plain = load(root)
    assert entries(root) == []
    assert not is_mapped(plain.images)
    first, second = load(root), load(root)
    assert plain.fingerprint == first.fingerprint == second.fingerprint
    for images in (first, second):
        assert is_mapped(images.images)
        assert not images.images.flags.writeable
    assert len(entries(root)) == 1
    assert sorted(path.name for path in entries(root)[0].iterdir()) == ["facts.json", "images.npy", "labels.npy"]


def test_a_second_load_decodes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(root)
    monkeypatch.setattr(Image, "open", None)
    assert load(root).fingerprint == first.fingerprint
    assert load(root, seed=1).fingerprint != first.fingerprint  # another split of the same pixels


def test_small_or_quick_sets_are_not_cached(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MIN_BYTES", 1 << 22)
    load(root)
    load_images("digits", split=SPLIT, seed=0, root=root)
    assert entries(root) == []


def test_transforms_and_changed_files_give_another_entry(root: Path) -> None:
    load(root)
    assert load(root, Transforms(crop=4)).image_shape == (3, 4, 4)
    assert load(root, Transforms(greyscale=True)).image_shape == (1, 8, 8)
    assert load(root, Transforms(resize=4)).image_shape == (3, 4, 4)
    assert len(entries(root)) == 4
    before = load(root).fingerprint
    os.utime(root / "set" / "a" / "0.png", ns=(1, 1))
    load(root)
    assert len(entries(root)) == 5
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(root / "set" / "a" / "0.png")
    assert load(root).fingerprint != before
    (root / "set" / "a" / "0.png").rename(root / "set" / "a" / "9.png")
    load(root)
    assert len(entries(root)) == 7


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "facts.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "gone"])
def test_a_damaged_entry_is_made_anew(root: Path, name: str, damage: str) -> None:
    fingerprint = load(root).fingerprint
    file = entries(root)[0] / name
    data = file.read_bytes()
    file.unlink()
    if damage != "gone":
        flipped = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
        file.write_bytes({"truncated": data[:-5], "flipped": flipped, "empty": b""}[damage])
    assert load(root).fingerprint == fingerprint
    assert file.read_bytes() == data
    assert len(entries(root)) == 1


def test_a_disk_that_cannot_be_written_is_no_error(root: Path) -> None:
    (root / cache.FOLDER).write_text("a file in the place of the folder")
    assert not is_mapped(load(root).images)


def test_a_write_that_fails_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        fingerprint = load(root).fingerprint
    assert entries(root) == []
    assert load(root).fingerprint == fingerprint
    assert len(entries(root)) == 1


def test_many_writers_at_once_make_one_entry(root: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(load(root).fingerprint)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(entries(root)) == 1


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads the page tables of Linux")
def test_two_processes_share_the_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4000, 3, 32, 32), dtype=np.uint8)
    np.savez_compressed(tmp_path / "x.npz", images=pixels, labels=np.arange(4000) % 10)
    code = (
        "import sys\nfrom pathlib import Path\nfrom zookeeper.images import cache, load_images\n"
        "cache.MIN_SECONDS = 0\n"
        "images = load_images('npz', split={'train': 0.8, 'test': 0.2}, seed=0, root=Path(sys.argv[1]), path='x.npz')\n"
        "images.fingerprint\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        "lines = Path('/proc/self/smaps').read_text().splitlines()\n"
        "start = next(n for n, line in enumerate(lines) if line.endswith('images.npy'))\n"
        "print(next(line for line in lines[start:] if line.startswith('Private_')).split()[1])\n"
        "print(next(line for line in lines[start:] if line.startswith('Pss:')).split()[1])\n"
    )
    processes = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        processes.append(process)
    # the first to answer still shares with the second, which waits
    output, _ = processes[0].communicate("\n", timeout=60)
    processes[1].communicate("\n", timeout=60)
    private, proportional = map(int, output.split())
    assert private == 0
    assert proportional <= pixels.nbytes / 1024 / 2 + 64


@pytest.mark.parametrize("variable", [None, "elsewhere"])
def test_order_of_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None) -> None:
    from zookeeper.images import find_root

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_DATA_ROOT", raising=False)
    if variable is not None:
        monkeypatch.setenv("ZOO_DATA_ROOT", variable)
    assert find_root(Path("given")) == Path("given")
    assert find_root(None) == Path(variable or "data")
    monkeypatch.setenv("ZOO_DATA_ROOT", "")
    assert find_root(None) == Path("data")
