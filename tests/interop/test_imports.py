from __future__ import annotations

import gzip
import json
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from zookeeper.errors import InputError, StoreError
from zookeeper.interop import importing
from zookeeper.interop.importing import import_zoo
from zookeeper.interop.source import ImportOptions
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.registry import build_network
from zookeeper.store.header import ImageShape
from zookeeper.store.verify import verify_zoo
from zookeeper.zoo import Zoo
from zookeeper.zoo import open as open_zoo

Truth = dict[tuple[str, int], torch.nn.Module]
PLACES = (0, 4, 8, 11, 14)


def logits(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = network.eval()(images)
    return result


def published(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """State dict under the keys of the published CNN with dropout."""
    state = network.state_dict()
    layers = list(dict.fromkeys(name.rsplit(".", 1)[0] for name in state))
    return {
        f"module_list.{PLACES[layers.index(n.rsplit('.', 1)[0])]}.{n.rsplit('.', 1)[1]}": t for n, t in state.items()
    }


def small(seed: int, dropout: float = 0.0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_network(
        "cnn-small", in_channels=1, image_size=(28, 28), num_classes=10, activation="tanh", dropout=dropout
    ).eval()


def test_ray_tune_networks_compute_what_they_did(ray_folder: Callable[..., Any], tmp_path: Path) -> None:
    root, truth = ray_folder()
    done = import_zoo("ray-tune", root, tmp_path / "zoo")
    assert (done.num_models, done.num_checkpoints, done.architectures) == (2, 6, ("cnn-small",))
    zoo = open_zoo(tmp_path / "zoo")
    images = torch.randn(5, 1, 28, 28)
    for (model_id, epoch), network in truth.items():
        assert torch.equal(logits(zoo.network(model_id, epoch), images), logits(network, images))
    assert zoo.layout.layers == ("conv1", "conv2", "conv3", "fc1", "fc2")
    assert verify_zoo(tmp_path / "zoo", deep=True).clean


def test_ray_tune_results_join_on_iterations(ray_folder: Callable[..., Any], tmp_path: Path) -> None:
    root, _ = ray_folder()
    done = import_zoo("ray-tune", root, tmp_path / "zoo")
    zoo = open_zoo(tmp_path / "zoo")
    first = zoo.model("75973_00394").frame
    # result.json is written backwards, and iteration 1 comes twice: the last line counts
    assert first["epoch"].tolist() == [0, 1, 5]
    assert first["test_acc"].tolist() == [0.0, 0.1, 0.5]
    assert first["train_loss"].tolist() == [2.0, 1.0, -3.0]
    assert zoo.models["dropout"].tolist() == [0.0, 0.5]
    assert zoo.models["weight_decay"].tolist() == [1e-4, 1e-4]
    assert set(zoo.factors) == {
        "architecture",
        "activation",
        "dropout",
        "init",
        "optimizer",
        "lr",
        "weight_decay",
        "seed",
        "batch_size",
        "model_type",
        "model_channels_in",
        "resources_cpu",
    }
    skipped = {entry["reason"]: entry["count"] for entry in done.skipped}
    assert skipped == {
        "repeated result, the last counts": 2,
        "result without checkpoint": 2,
        "folder without checkpoints": 2,
    }
    imported = zoo.header.provenance["imported"]
    assert (imported["licence"], imported["source"]) == ("CC BY 4.0", "published")
    assert set(zoo.frame["split"]) <= {"train", "val", "test"}
    assert "hacked" not in {path.name for path in Path.cwd().iterdir()}


def test_progress_csv_serves_where_there_is_no_result_json(ray_folder: Callable[..., Any], tmp_path: Path) -> None:
    root, _ = ray_folder()
    for trial in root.glob("NN_tune_trainable_*394*"):
        (trial / "result.json").unlink()
        (trial / "progress.csv").write_text("test_acc,training_iteration\n0.30000000000000004,5\n0.25,0\n")
    done = import_zoo("ray-tune", root, tmp_path / "zoo")
    assert open_zoo(tmp_path / "zoo").model("75973_00394").frame["test_acc"].tolist()[::2] == [0.25, 0.1 + 0.2]
    assert "checkpoint without result; kept with weights only" in {entry["reason"] for entry in done.skipped}


def conv_nhwc(images: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """3 x 3 convolution with stride 2 of [B, H, W, I] with an HWIO kernel, straight from the definition."""
    side = (images.shape[1] - 3) // 2 + 1
    out = np.zeros((len(images), side, side, kernel.shape[-1]))
    for row in range(side):
        for column in range(side):
            window = images[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            out[:, row, column] = np.einsum("bhwi,hwio->bo", window, kernel) + bias
    return out


def small_cnn_logits(row: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Logits of one published row, biases first, kernels HWIO, dense (in, out), in NumPy."""
    cuts = [16, 144, 16, 2304, 16, 2304, 10, 160]
    b1, k1, b2, k2, b3, k3, b4, k4 = np.split(row.astype(np.float64), np.cumsum(cuts)[:-1])
    x = images
    for kernel, bias, channels in ((k1, b1, 1), (k2, b2, 16), (k3, b3, 16)):
        x = np.maximum(conv_nhwc(x, kernel.reshape(3, 3, channels, 16), bias), 0)
    return np.asarray(x.mean((1, 2)) @ k4.reshape(16, 10) + b4)


def write_small_cnn_zoo(root: Path) -> np.ndarray:
    root.mkdir()
    weights = np.random.default_rng(0).normal(0, 0.3, (6, 4970)).astype(np.float32)
    np.save(root / "weights.npy", weights)
    frame = pd.DataFrame(
        {
            "config.activation": ["relu"] * 6,
            "config.b_init": ["zeros"] * 6,
            "config.dropout": [0.0] * 6,
            "config.learning_rate": [0.1, 0.1, 0.02, 0.02, 0.02, 0.1],
            "config.w_init": ["normal"] * 6,
            "modeldir": ["/zoo/r1", "/zoo/r1", "/zoo/r2", "/zoo/r2", "/zoo/r2", "/zoo/r1"],
            "step": [86, 0, 0, 1, 86, 1],
            "test_accuracy": np.arange(6) / 8,
            "train_loss": [1.0] * 6,
        }
    )
    with gzip.open(root / "metrics.csv.gz", "wt") as file:
        frame.to_csv(file, index=False)
    return weights


def test_hwio_kernels_become_oihw_and_logits_stay(tmp_path: Path) -> None:
    weights = write_small_cnn_zoo(tmp_path / "mnist")
    done = import_zoo("unterthiner", tmp_path / "mnist", tmp_path / "zoo")
    assert (done.num_models, done.num_checkpoints) == (2, 6)
    zoo = open_zoo(tmp_path / "zoo")
    assert zoo.image.shape == (1, 28, 28)
    images = np.random.default_rng(1).normal(size=(3, 28, 28, 1))
    checked = 0
    for number, accuracy in enumerate(np.arange(6) / 8):
        line = zoo.query("test_acc == @accuracy", accuracy=accuracy).frame.iloc[0]
        network = zoo.network(line["model_id"], int(line["epoch"])).double()
        ours = logits(network, torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
        np.testing.assert_allclose(ours, small_cnn_logits(weights[number], images), rtol=1e-10, atol=1e-12)
        checked += 1
    assert checked == 6
    runs = zoo.frame.groupby("modeldir")["epoch"].apply(list).to_dict()
    assert runs == {"/zoo/r1": [0, 1, 86], "/zoo/r2": [0, 1, 86]}
    assert zoo.frame.groupby("modeldir")["split"].nunique().max() == 1


def test_published_keys_in_a_sorted_container_find_their_layers(tmp_path: Path) -> None:
    root, truth = tmp_path / "files", {}
    (root / "deep").mkdir(parents=True)
    for number in range(3):
        truth[number] = small(number, dropout=0.2)
        save_file(published(truth[number]), root / "deep" / f"net{number}_epoch_{number + 2}.safetensors")
    (root / "table.csv").write_text(
        "filename,activation,test_acc,comment\nnet0_epoch_2.safetensors,tanh,0.5,007\n"
        "deep/net2_epoch_4,tanh,0.75,\nghost.safetensors,tanh,0.1,x\n"
    )
    done = import_zoo("safetensors", root, tmp_path / "zoo", ImportOptions(split=None))
    zoo, images = open_zoo(tmp_path / "zoo"), torch.randn(4, 1, 28, 28)
    assert zoo.frame["model_id"].tolist() == ["deep/net0", "deep/net2"]
    assert zoo.frame["epoch"].tolist() == [2, 4]
    for model_id, epoch, number in (("deep/net0", 2, 0), ("deep/net2", 4, 2)):
        assert torch.equal(logits(zoo.network(model_id, epoch), images), logits(truth[number], images))
    assert [(entry["reason"], entry["count"]) for entry in done.skipped] == [
        ("line of the table without a file", 1),
        ("file that the table does not name", 1),
    ]


@pytest.mark.parametrize("format", ["state-dict", "npz"])
def test_any_network_keeps_its_own_names(tmp_path: Path, format: str) -> None:
    (tmp_path / "files").mkdir()
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Linear(5, 7))
    network[1].running_mean += 0.5
    if format == "npz":
        arrays = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
        np.savez_compressed(tmp_path / "files" / "a.npz", **arrays)  # type: ignore[arg-type]
    else:
        torch.save({"state_dict": network.state_dict(), "epoch": 3}, tmp_path / "files" / "a.pt")
    done = import_zoo(format, tmp_path / "files", tmp_path / "zoo")
    assert (done.architectures, done.unknown_architecture) == ((), 1)
    state = open_zoo(tmp_path / "zoo").state_dict("a", 0)
    assert sorted(state) == sorted(n for n in network.state_dict() if not n.endswith("num_batches_tracked"))
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in state.items())
    kinds = {block.name: block.kind for block in open_zoo(tmp_path / "zoo").layout.blocks}
    assert (kinds["0.bias"], kinds["1.weight"], kinds["1.bias"]) == ("bias", "scale", "shift")


def test_halves_and_bfloats_are_read_exactly_and_doubles_are_not_cut(tmp_path: Path) -> None:
    for name, dtype in (("half", torch.float16), ("brain", torch.bfloat16), ("double", torch.float64)):
        (tmp_path / name).mkdir()
        tensor = torch.linspace(0.1, 3, 6, dtype=torch.float64).reshape(2, 3).to(dtype)
        torch.save({"fc.weight": tensor}, tmp_path / name / "a.pt")
        if name != "double":
            import_zoo("state-dict", tmp_path / name, tmp_path / f"{name}-zoo")
            assert open_zoo(tmp_path / f"{name}-zoo").weights()[0].tolist() == tensor.float().flatten().tolist()
    with pytest.raises(InputError, match="--dtype float64"):
        import_zoo("state-dict", tmp_path / "double", tmp_path / "double-zoo")
    import_zoo("state-dict", tmp_path / "double", tmp_path / "wide-zoo", ImportOptions(dtype="float64"))
    assert open_zoo(tmp_path / "wide-zoo").weights_float64()[0].tolist() == tensor.flatten().tolist()


def write_dataset_pt(path: Path, *, flat: bool) -> dict[str, list[list[torch.nn.Module]]]:
    """A file of objects whose class is gone when it is read; models of two epochs in every set."""
    module = types.ModuleType("checkpoints_to_datasets.dataset_base")
    cls = type("ModelDatasetBase", (), {"__module__": module.__name__})
    module.ModelDatasetBase = cls  # type: ignore[attr-defined]
    parent = types.ModuleType("checkpoints_to_datasets")
    sys.modules |= {module.__name__: module, parent.__name__: parent}
    content, truth = {}, {}
    layout = WeightLayout.of(small(0))
    for place, name in enumerate(("trainset", "valset", "testset")):
        networks = [[small(100 * place + 10 * model + epoch) for epoch in (0, 1)] for model in range(2)]
        dataset = cls()
        states = [[dict(published(net)) for net in line] for line in networks]
        rows = [layout.flatten({n: t.detach() for n, t in net.named_parameters()}) for line in networks for net in line]
        dataset.data = torch.stack(rows) if flat else states  # type: ignore[attr-defined]
        paths = [f"/runs/{name}/{model}" for model in range(2)]
        dataset.paths = [path for path in paths for _ in (0, 1)] if flat else paths  # type: ignore[attr-defined]
        dataset.epochs = torch.tensor([0, 7, 0, 7]) if flat else [[0, 7], [0, 7]]  # type: ignore[attr-defined]
        accuracy = [0.25, 0.5, 0.75, 1.0]
        dataset.properties = {"test_acc": accuracy if flat else [accuracy[:2], accuracy[2:]]}  # type: ignore[attr-defined]
        dataset.index_dict = {"layer": [(0, "conv2d")]}  # type: ignore[attr-defined]
        content[name], truth[name] = dataset, networks
    torch.save(content, path)
    del sys.modules[module.__name__], sys.modules[parent.__name__]
    return truth


@pytest.mark.parametrize("flat", [True, False])
def test_a_dataset_of_vanished_classes_is_read(tmp_path: Path, flat: bool) -> None:
    truth = write_dataset_pt(tmp_path / "dataset.pt", flat=flat)
    image = ImageShape("mnist", 1, 28, 28, 10)
    done = import_zoo("dataset-pt", tmp_path / "dataset.pt", tmp_path / "zoo", ImportOptions("cnn-small", image))
    assert (done.num_models, done.num_checkpoints, done.architectures) == (6, 12, ("cnn-small",))
    zoo = open_zoo(tmp_path / "zoo")
    assert zoo.models["split"].tolist() == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    images = torch.randn(3, 1, 28, 28)
    for name, side in (("trainset", "train"), ("testset", "test")):
        view = zoo.split(side)
        assert view.frame["epoch"].tolist() == [0, 7, 0, 7]
        assert view.frame["test_acc"].tolist() == [0.25, 0.5, 0.75, 1.0]
        for row, network in zip(view.tensor(), [net for line in truth[name] for net in line], strict=True):
            mine = small(5)
            mine.load_state_dict(view.layout.unflatten(row))
            assert torch.equal(logits(mine, images), logits(network, images))


def test_a_stopped_import_goes_on(
    ray_folder: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = ray_folder()
    import_zoo("ray-tune", root, tmp_path / "whole")
    monkeypatch.setattr(importing, "_BLOCK_BYTES", 1)

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_zoo("ray-tune", root, tmp_path / "zoo", on_rows=stop)
    assert len(open_zoo(tmp_path / "zoo")) == 3
    counts: list[int] = []
    done = import_zoo("ray-tune", root, tmp_path / "zoo", on_start=counts.append, on_rows=counts.append)
    assert (done.num_resumed, done.num_checkpoints, counts) == (3, 6, [6, 3, 3])
    again = import_zoo("ray-tune", root, tmp_path / "zoo")
    assert again.num_resumed == 6
    one, other = open_zoo(tmp_path / "whole"), open_zoo(tmp_path / "zoo")
    assert one.weights().tobytes() == other.weights().tobytes()
    pd.testing.assert_frame_equal(one.frame.drop(columns="cohort"), other.frame.drop(columns="cohort"))
    shutil.rmtree(next(root.glob("*00395*")) / "checkpoint_000005")
    with pytest.raises(StoreError, match="holds another zoo"):
        import_zoo("ray-tune", root, tmp_path / "zoo")


def test_a_flood_of_nan_is_kept_and_flagged(ray_folder: Callable[..., Any], tmp_path: Path) -> None:
    root, _ = ray_folder()
    file = next(root.glob("*00395*")) / "checkpoint_000005" / "checkpoints"
    torch.save({name: tensor * float("nan") for name, tensor in torch.load(file).items()}, file)
    assert import_zoo("ray-tune", root, tmp_path / "zoo").num_diverged == 1
    zoo = open_zoo(tmp_path / "zoo")
    assert zoo.frame["status"].tolist() == ["ok"] * 5 + ["diverged"]
    assert np.isnan(zoo.weights()[5]).all()


def test_a_sidecar_cannot_call_damaged_weights_sound(make_zoo: Callable[..., Zoo], tmp_path: Path) -> None:
    from zookeeper.interop.exporting import export_zoo

    export_zoo("npy", make_zoo(), tmp_path / "out")
    table = tmp_path / "out" / "metrics.csv"
    table.write_text(table.read_text().replace("diverged", "ok"))
    assert import_zoo("npy", tmp_path / "out", tmp_path / "zoo").num_diverged == 1
    document = json.loads((tmp_path / "out" / "zookeeper.json").read_text())
    (tmp_path / "out" / "zookeeper.json").write_text(json.dumps({**document, "format_version": 2}))
    with pytest.raises(InputError, match="newer release"):
        import_zoo("npy", tmp_path / "out", tmp_path / "zoo2")
