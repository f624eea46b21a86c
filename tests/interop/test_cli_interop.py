from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import zookeeper
from zookeeper.zoo import Zoo


def test_import_says_what_it_did(ray_folder: Callable[..., Any], run: Callable[..., Any], tmp_path: Path) -> None:
    root, _ = ray_folder()
    code, out, err = run(
        "import", "ray-tune", root, tmp_path / "zoo", "--json", "--licence", "CC0", "--url", "https://example.org/zoo"
    )
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert (said["num_models"], said["num_checkpoints"], said["num_resumed"]) == (2, 6, 0)
    assert {"reason", "count", "examples"} == set(said["skipped"][0])
    zoo = zookeeper.open(tmp_path / "zoo")
    assert zoo.header.provenance["imported"]["licence"] == "CC0"
    assert zoo.header.provenance["imported"]["url"] == "https://example.org/zoo"
    code, out, _ = run("import", "ray-tune", root, tmp_path / "zoo")
    assert code == 0
    assert "6 (6 were there already)" in out
    assert "skipped 2: folder without checkpoints (NN_tune_trainable_75973_00999_2_failed, " in out
    assert str(tmp_path.parent) not in json.dumps(zoo.header.provenance)


def test_export_writes_published_names(make_zoo: Callable[..., Zoo], run: Callable[..., Any], tmp_path: Path) -> None:
    zoo = make_zoo("cnn-small", dropout=0.3)
    code, out, err = run(
        "export", "state-dict", zoo.path, tmp_path / "out", "--published-names", "--query", "epoch == 5", "--json"
    )
    assert (code, err) == (0, "")
    assert json.loads(out)["num_checkpoints"] == 3
    state = torch.load(tmp_path / "out" / "checkpoints" / "a1" / "epoch_000005.pt", weights_only=True)
    assert [name for name in state if name.endswith("weight")] == [f"module_list.{n}.weight" for n in (0, 4, 8, 11, 14)]
    assert torch.equal(state["module_list.14.bias"], zoo.state_dict("a1", 5)["fc2.bias"])
    code, _, err = run("export", "state-dict", zoo.path, tmp_path / "out")
    assert (code, "already exists" in err) == (2, True)


def test_a_ray_export_is_what_published_code_expects(
    make_zoo: Callable[..., Zoo], run: Callable[..., Any], tmp_path: Path
) -> None:
    zoo = make_zoo("cnn-small")
    assert run("export", "ray-tune", zoo.path, tmp_path / "out")[0] == 0
    trials = sorted(path for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert len(trials) == 3
    params = json.loads((trials[1] / "params.json").read_text())
    assert (params["model::type"], params["model::nlin"], params["optim::lr"]) == ("CNN", "tanh", 0.1 + 0.2)
    lines = [json.loads(line) for line in (trials[1] / "result.json").read_text().splitlines()]
    assert [line["training_iteration"] for line in lines] == [0, 1, 5]
    state = torch.load(trials[1] / "checkpoint_000005" / "checkpoints", weights_only=True)
    assert list(state)[-1] == "module_list.11.bias"
    # without our own notes it is an ordinary published zoo
    (tmp_path / "out" / "zookeeper.json").unlink()
    assert run("import", "ray-tune", tmp_path / "out", tmp_path / "again")[0] == 0
    again = zookeeper.open(tmp_path / "again")
    assert again.weights().tobytes() == zoo.weights().tobytes()
    assert again.frame["train_loss"].tolist() == zoo.frame["train_loss"].tolist()
    assert again.frame["lr"].tolist() == zoo.frame["lr"].tolist()


def test_architectures_without_published_names_are_refused(
    make_zoo: Callable[..., Zoo], run: Callable[..., Any], tmp_path: Path
) -> None:
    zoo = make_zoo("smallcnn-google")
    code, _, err = run("export", "safetensors", zoo.path, tmp_path / "out", "--published-names")
    assert (code, "has no published key names" in err) == (2, True)
    assert not (tmp_path / "out").exists()
    code, _, err = run("export", "npy", zoo.path, tmp_path / "out", "--table", "xlsx")
    assert (code, "expected csv or parquet" in err) == (2, True)
