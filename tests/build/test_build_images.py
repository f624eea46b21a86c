"""Image sets on the way from a spec to a zoo: where the files lie, what is said when they do not, what workers read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zookeeper
from zookeeper import build_zoo, load_spec
from zookeeper.build.job import image_json
from zookeeper.build.workers import Workers
from zookeeper.errors import InputError
from zookeeper.images import cache

SPLIT = {"train": 0.5, "val": 0.25, "test": 0.25}


def write_npz(root: Path, num: int = 120) -> None:
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    labels = np.arange(num) % 4
    images = (rng.integers(0, 60, (num, 12, 10, 3)) + 60 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(root / "x.npz", images=images, labels=labels)


def npz_section(**extra: Any) -> dict[str, Any]:
    return {"name": "npz", "path": "x.npz", "split": SPLIT, "resize": 6, "crop": 4, "greyscale": True, **extra}


def test_order_of_roots(write_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def root_of(images: dict[str, Any], flag: Path | None = None) -> Path:
        spec = load_spec(write_spec(tmp_path / "spec.yaml", images=images), data_root=flag)
        return Path(json.loads(image_json(spec))["root"])

    plain, placed = {"name": "mnist", "split": {"train": 1.0}}, {"name": "mnist", "split": {"train": 1.0}, "root": "s"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_DATA_ROOT", raising=False)
    assert root_of(plain) == tmp_path / "data"
    monkeypatch.setenv("ZOO_DATA_ROOT", str(tmp_path / "variable"))
    assert root_of(plain) == tmp_path / "variable"
    assert root_of(placed) == tmp_path / "s"
    assert root_of(placed, tmp_path / "flag") == tmp_path / "flag"
    monkeypatch.setenv("ZOO_DATA_ROOT", "relative")
    assert root_of(plain) == tmp_path / "relative"


@pytest.mark.parametrize("name", ["svhn", "cifar100", "stl10", "usps", "eurosat", "tiny-imagenet"])
def test_missing_files_are_one_error_and_no_zoo(name: str, plan_of: Any, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    images = {"name": name, "split": {"train": 0.9, "test" if name == "eurosat" else "val": 0.1}, "root": "images"}
    plan = plan_of(images=images)
    with pytest.raises(InputError, match=rf"image set {name}: no files found in {tmp_path}/images/.*--data-root"):
        build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert not (tmp_path / "zoo").exists()
    assert list((tmp_path / "images").iterdir()) == []


def test_a_zoo_of_transformed_and_augmented_images(plan_of: Any, tmp_path: Path) -> None:
    write_npz(tmp_path / "images")
    plan = plan_of(images=npz_section(root="images", augment={"flip": True}))
    summary = build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert summary.failures == {}
    zoo = zookeeper.open(tmp_path / "zoo")
    assert (zoo.header.image.channels, zoo.header.image.height, zoo.header.image.width) == (1, 4, 4)
    details = zoo.header.image.details
    assert [details[key] for key in ("path", "resize", "crop", "greyscale")] == ["x.npz", 6, 4, True]
    assert details["augment"] == {"crop_padding": 0, "flip": True, "rotation": 0.0}
    assert summary.best_test_acc > 0.4
    again = build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert again.num_checkpoints == summary.num_checkpoints


def test_a_changed_augmentation_is_another_zoo(plan_of: Any, tmp_path: Path) -> None:
    write_npz(tmp_path / "images")
    build_zoo(plan_of(images=npz_section(root="images")), tmp_path / "zoo", show_progress=False)
    with pytest.raises(InputError, match=r"another spec: .*images\.augment"):
        build_zoo(
            plan_of(images=npz_section(root="images", augment={"flip": True})), tmp_path / "zoo", show_progress=False
        )


def test_ray_workers_read_the_cache_of_the_driver(
    plan_of: Any, contents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_npz(tmp_path / "images")
    plan = plan_of(
        images=npz_section(), grid={"lr": [1e-3], "seed": [1, 2]}, build={"cohort_size": 1}, split={"train": 1.0}
    )
    monkeypatch.setenv("ZOO_DATA_ROOT", str(tmp_path / "images"))
    build_zoo(plan, tmp_path / "local", show_progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "MIN_SECONDS", 0.0)
        patch.setattr(cache, "MIN_BYTES", 0)
        zookeeper.build.job.load_spec_images.cache_clear()  # type: ignore[attr-defined]
        summary = build_zoo(plan, tmp_path / "ray", Workers(num_workers=2, backend="ray"), show_progress=False)
    assert summary.failures == {}
    assert len(list((tmp_path / "images" / cache.FOLDER).iterdir())) == 1
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
