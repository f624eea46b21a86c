from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zookeeper.compare import compare_zoos
from zookeeper.errors import InputError
from zookeeper.interop.exporting import EXPORT_FORMATS, ExportOptions, export_zoo
from zookeeper.interop.importing import import_zoo
from zookeeper.store.encoding import Encoding
from zookeeper.store.verify import verify_zoo
from zookeeper.zoo import Zoo

GENERAL = tuple(name for name in EXPORT_FORMATS if name != "unterthiner")


@pytest.mark.parametrize("table", ["csv", "parquet"])
@pytest.mark.parametrize("format", GENERAL)
def test_a_zoo_comes_back_to_the_bit(make_zoo: Callable[..., Zoo], tmp_path: Path, format: str, table: str) -> None:
    zoo = make_zoo()
    done = export_zoo(format, zoo, tmp_path / "out", ExportOptions(table=table))
    assert (done.num_models, done.num_checkpoints) == (3, 9)
    again = import_zoo(format, tmp_path / "out", tmp_path / "again")
    assert again.num_diverged == 1
    assert again.skipped == ()
    from zookeeper.zoo import open as open_zoo

    assert compare_zoos(zoo, open_zoo(tmp_path / "again")) == ()
    assert verify_zoo(tmp_path / "again", deep=True).clean


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_published_networks_come_back_to_the_bit(make_zoo: Callable[..., Zoo], tmp_path: Path, format: str) -> None:
    zoo = make_zoo("smallcnn-google" if format == "unterthiner" else "cnn-small", dropout=0.5)
    options = ExportOptions(published_names=format not in ("unterthiner", "npy", "ray-tune"))
    export_zoo(format, zoo, tmp_path / "out", options)
    import_zoo(format, tmp_path / "out", tmp_path / "again")
    from zookeeper.zoo import open as open_zoo

    assert compare_zoos(zoo, open_zoo(tmp_path / "again")) == ()


@pytest.mark.parametrize("format", GENERAL)
def test_doubles_come_back_to_the_bit(make_zoo: Callable[..., Zoo], tmp_path: Path, format: str) -> None:
    zoo = make_zoo(store=Encoding(dtype="float64"))
    assert not np.array_equal(zoo.weights().astype(np.float64), zoo.weights_float64(), equal_nan=True)
    export_zoo(format, zoo, tmp_path / "out")
    import_zoo(format, tmp_path / "out", tmp_path / "again")
    from zookeeper.zoo import open as open_zoo

    assert compare_zoos(zoo, open_zoo(tmp_path / "again")) == ()


def test_a_view_is_exported_as_it_is_seen(make_zoo: Callable[..., Zoo], tmp_path: Path) -> None:
    view = make_zoo().query("epoch == 5 and nesterov")
    export_zoo("safetensors", view, tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.safetensors"))) == 2
    import_zoo("safetensors", tmp_path / "out", tmp_path / "again")
    from zookeeper.zoo import open as open_zoo

    again = open_zoo(tmp_path / "again")
    assert again.frame["model_id"].tolist() == view.frame["model_id"].tolist()
    assert again.weights().tobytes() == view.weights().tobytes()


def test_an_export_appears_whole_or_not_at_all(make_zoo: Callable[..., Zoo], tmp_path: Path) -> None:
    zoo = make_zoo()

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_zoo("state-dict", zoo, tmp_path / "out", on_rows=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy-zoo"]
    with pytest.raises(InputError, match="no checkpoint is selected"):
        export_zoo("state-dict", zoo.query("epoch > 99"), tmp_path / "out")
    with pytest.raises(InputError, match="smallcnn-google"):
        export_zoo("unterthiner", zoo, tmp_path / "out")
    with pytest.raises(InputError, match="expected one of state-dict"):
        export_zoo("onnx", zoo, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy-zoo"]
