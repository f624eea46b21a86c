"""Every hostile file ends in one line of error and exit code 2; nothing of it runs, nothing is stored."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from zookeeper.cli import main
from zookeeper.errors import InputError
from zookeeper.interop.folder import read_bytes
from zookeeper.interop.tensors import decode_torch
from zookeeper.store.verify import verify_zoo
from zookeeper.zoo import Zoo
from zookeeper.zoo import open as open_zoo

GOOD = {"fc.weight": torch.arange(6.0).reshape(2, 3)}


@pytest.fixture
def refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Import a folder through the command line; return the error after checking how it ended."""

    def refuse(format: str, source: Path, *options: str) -> str:
        target = tmp_path / "zoo"
        monkeypatch.setattr(sys, "argv", ["zookeeper", "import", format, str(source), str(target), *options])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended:
            main()
        lines = capsys.readouterr().err.strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert ended.value.code == 2, lines
        assert len(errors) == 1
        assert not any("Traceback" in line for line in lines)
        assert not (tmp_path / "hacked").exists()
        assert not target.exists() or len(open_zoo(target)) == 0
        return errors[0]

    return refuse


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


class Call:
    """Pickles as the call of a function: what an attacker writes."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.parts = (function, arguments)

    def __reduce__(self) -> Any:
        return self.parts


def os_system() -> Call:
    return Call(os.system, "touch hacked")


def stack_global(module: bytes, name: bytes, rest: bytes) -> bytes:
    def text(value: bytes) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value

    return b"\x80\x04" + text(module) + text(name) + b"\x93" + rest


TOUCH = b"\x8c\x0ctouch hacked\x85R."
CODE: dict[str, bytes] = {
    **{f"os.system, protocol {n}": pickle.dumps(os_system(), n) for n in range(6)},
    "eval": pickle.dumps(Call(eval, "open('hacked', 'w')")),
    "getattr chain": pickle.dumps(Call(getattr, Call(__import__, "os"), "system")),
    "stack_global": stack_global(b"posix", b"system", TOUCH),
    "dotted name": stack_global(b"collections", b"OrderedDict.fromkeys", TOUCH),
    "attribute of an admitted module": stack_global(b"torch._utils", b"_import_dotted_name", TOUCH),
    "computed name": b"\x80\x04c_codecs\nencode\n\x8c\x05posix\x8c\x06latin1\x86R\x8c\x06system\x93" + TOUCH,
    "name made of a call's result": b"\x80\x04c_codecs\nencode\n\x8c\x05posix\x85R\x8c\x06system\x93" + TOUCH,
    "inst": b"(S'touch hacked'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'touch hacked'\no.",
    "newobj": b"\x80\x02cos\nsystem\nX\x0c\x00\x00\x00touch hacked\x85\x81.",
    "newobj_ex": stack_global(b"os", b"system", b"\x8c\x0ctouch hacked\x85}\x92."),
    "extension registry": b"\x80\x02\x82\x01.",
    "state of a function": b"\x80\x02ccollections\nOrderedDict\n}b.",
    "call of a list": b"\x80\x02]\x85)R.",
    "inside bytes": pickle.dumps(Call(pickle.loads, pickle.dumps(os_system()))),
    "hidden in a state dict": pickle.dumps({"fc.weight": os_system()}),
    "hidden in a key": pickle.dumps({("a", 1): [({"b": os_system()},)]}),
    "nested in a tensor": pickle.dumps(Call(torch.storage._load_from_bytes, pickle.dumps(os_system()))),
    "subprocess": pickle.dumps(Call(__import__("subprocess").check_output, ["touch", "hacked"])),
    "an innocent looking function": b"\x80\x02cmy_lab.tools\nload_model\nX\x01\x00\x00\x00a\x85R.",
}


@pytest.mark.parametrize("data", CODE.values(), ids=CODE)
@pytest.mark.parametrize("format", ["state-dict", "dataset-pt"])
def test_pickles_with_code(refuse: Callable[..., str], folder: Path, format: str, data: bytes) -> None:
    (folder / ("dataset.pt" if format == "dataset-pt" else "a.pt")).write_bytes(data)
    error = refuse(format, folder)
    assert "refused" in error or (format == "state-dict" and "the pickle names" in error)


@pytest.mark.parametrize("data", CODE.values(), ids=CODE)
def test_pickles_with_code_in_containers_of_torch(refuse: Callable[..., str], folder: Path, data: bytes) -> None:
    with zipfile.ZipFile(folder / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", data)
    refuse("state-dict", folder)
    torch.save(GOOD, folder / "a.pt", _use_new_zipfile_serialization=False)
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    assert (folder / "a.pt").read_bytes().startswith(magic[:14])
    (folder / "a.pt").write_bytes(magic + data)
    refuse("state-dict", folder)


def test_code_in_a_ray_folder(ray_folder: Callable[..., Any], refuse: Callable[..., str]) -> None:
    root, _ = ray_folder()
    file = next(root.glob("*00395*")) / "checkpoint_000000" / "checkpoints"
    file.write_bytes(pickle.dumps(os_system()))
    assert ".system, which is code" in refuse("ray-tune", root)
    assert str(file) in refuse("ray-tune", root)


def test_pickles_that_exhaust_the_reader() -> None:
    begin = time.monotonic()
    assert decode_torch(b"\x80\x02]r\xff\xff\xff\x7f.", "memo at 2 ** 31") == []
    deep = b"\x80\x02)" + b"\x85" * 200_000
    with pytest.raises(InputError, match="as a key"):
        decode_torch(b"\x80\x02}" + deep[2:] + b"Ns.", "hash of a deep tuple")
    with pytest.raises(InputError):
        decode_torch(deep + b".", "deep tuple")
    with pytest.raises(InputError, match="not a whole pickle"):
        decode_torch(b"\x80\x02\x8b\xff\xff\xff\x7f1.", "integer of 2 GB")
    with pytest.raises(InputError, match="not a whole pickle"):
        decode_torch(b"\x80\x04\x8d" + b"\xff" * 8 + b"a.", "text of 16 EB")
    loop = decode_torch(b"\x80\x02]q\x00h\x00a.", "list in itself")
    assert loop[0] is loop
    nested = pickle.dumps(1)
    for _ in range(5):
        nested = pickle.dumps(Call(torch.storage._load_from_bytes, nested))
    with pytest.raises(InputError, match="nested"):
        decode_torch(nested, "files in files")
    assert time.monotonic() - begin < 600


class _Storage:
    def __init__(self, numbers: int, key: str = "0", kind: type = torch.FloatStorage) -> None:
        self.identity = ("storage", kind, key, "cpu", numbers)


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.identity if isinstance(value, _Storage) else None


def write_tensor(
    path: Path, shape: Any, stride: Any, offset: Any = 0, *, claimed: Any = 6, held: int = 6, key: str = "0"
) -> None:
    """A container of torch whose one tensor has what geometry the test wants."""
    stream = io.BytesIO()
    tensor = Call(torch._utils._rebuild_tensor_v2, _Storage(claimed, key), offset, shape, stride, False, {})
    _Pickler(stream, 2).dump({"fc.weight": tensor})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", stream.getvalue())
        archive.writestr(f"a/data/{key}", np.arange(held, dtype=np.float32).tobytes())


def test_the_forger_can_write_a_sound_tensor(folder: Path) -> None:
    write_tensor(folder / "a.pt", (2, 3), (3, 1))
    value = decode_torch((folder / "a.pt").read_bytes(), "a.pt")
    assert value["fc.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]


GEOMETRY: dict[str, dict[str, Any]] = {
    "absurd shape": {"shape": (1 << 40,), "stride": (1,)},
    "overflowing shape": {"shape": (1 << 33, 1 << 33), "stride": (1, 1)},
    "negative shape": {"shape": (-2, -3), "stride": (3, 1)},
    "stride beyond": {"shape": (2, 3), "stride": (4, 1)},
    "negative stride": {"shape": (2, 3), "stride": (-3, 1)},
    "zero stride that grows": {"shape": (1 << 28,), "stride": (0,)},
    "offset beyond": {"shape": (2, 3), "stride": (3, 1), "offset": 1},
    "absurd offset": {"shape": (2,), "stride": (1,), "offset": 1 << 62},
    "negative offset": {"shape": (2,), "stride": (1,), "offset": -1},
    "ranks differ": {"shape": (2, 3), "stride": (1,)},
    "rank 100": {"shape": (1,) * 100, "stride": (1,) * 100},
    "fractional shape": {"shape": (2.0, 3), "stride": (3, 1)},
    "shape of text": {"shape": "23", "stride": (3, 1)},
    "storage shorter than claimed": {"shape": (2, 3), "stride": (3, 1), "held": 5},
    "storage longer than claimed": {"shape": (2, 3), "stride": (3, 1), "held": 7},
    "absurd storage": {"shape": (2, 3), "stride": (3, 1), "claimed": 1 << 50},
    "negative storage": {"shape": (0,), "stride": (1,), "claimed": -1},
    "storage with a path": {"shape": (2, 3), "stride": (3, 1), "key": "../0"},
}


@pytest.mark.parametrize("geometry", GEOMETRY.values(), ids=GEOMETRY)
def test_absurd_tensors(refuse: Callable[..., str], folder: Path, geometry: dict[str, Any]) -> None:
    write_tensor(folder / "a.pt", **geometry)
    refuse("state-dict", folder)


@pytest.mark.parametrize("name", ["../evil.npy", "/etc/evil.npy", "a/../../evil.npy", "C:evil.npy", "..\\evil.npy"])
def test_names_that_leave_an_archive(refuse: Callable[..., str], folder: Path, name: str) -> None:
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr(name, b"x")
    assert "outside the archive" in refuse("npz", folder)
    torch.save(GOOD, folder / "a.pt")
    with zipfile.ZipFile(folder / "a.pt", "a") as archive:
        archive.writestr(name, b"x")
    assert "outside the archive" in refuse("state-dict", folder)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_bombs_that_say_so(refuse: Callable[..., str], folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as entry:
        for _ in range(70):
            entry.write(bytes(1 << 20))
    assert (folder / "a.npz").stat().st_size < 1 << 17
    assert "bomb" in refuse("npz", folder)


def test_bombs_that_lie_about_their_size(refuse: Callable[..., str], folder: Path) -> None:
    data = npy(np.zeros((1000, 1000), np.float32))
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", data)
    small = npy(np.zeros((1, 1), np.float32))
    forged = (folder / "a.npz").read_bytes().replace(struct.pack("<I", len(data)), struct.pack("<I", len(small)))
    (folder / "a.npz").write_bytes(forged)
    assert zipfile.ZipFile(folder / "a.npz").getinfo("w.npy").file_size == len(small)
    refuse("npz", folder)


def test_torch_containers_that_are_compressed_or_overlap(refuse: Callable[..., str], folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", bytes(1 << 20))
    assert "bomb" in refuse("state-dict", folder)
    write_tensor(folder / "a.pt", (2, 3), (3, 1))
    with zipfile.ZipFile(folder / "a.pt", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/data.pkl", b"N.")
    refuse("state-dict", folder)


def test_bombs_in_tables(refuse: Callable[..., str], folder: Path) -> None:
    np.save(folder / "weights.npy", np.zeros((1, 4970), np.float32))
    with gzip.open(folder / "metrics.csv.gz", "wb", 9) as file:
        file.write(b"modeldir,step\n")
        for _ in range(70):
            file.write(b"\n" * (1 << 20))
    assert "bomb" in refuse("unterthiner", folder)
    (folder / "plain.csv").write_bytes(b"a" * 100)
    with pytest.raises(InputError, match="more than"):
        read_bytes(folder / "plain.csv", 99)


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_links_that_leave_the_folder(ray_folder: Callable[..., Any], refuse: Callable[..., str], folder: Path) -> None:
    outside = folder.parent / "secret.pt"
    torch.save(GOOD, outside)
    (folder / "a.pt").symlink_to(outside)
    assert "link that leaves" in refuse("state-dict", folder)
    (folder / "a.pt").unlink()
    (folder / "more").symlink_to(folder.parent)
    assert "link that leaves" in refuse("state-dict", folder)
    root, _ = ray_folder()
    trial = next(root.glob("*00394*"))
    for name in ("params.json", "result.json", "checkpoint_000001/checkpoints", "checkpoint_000001"):
        path, kept = trial / name, trial / "kept"
        path.rename(kept)
        path.symlink_to(folder.parent / "secret" if "." not in name else outside)
        if name == "checkpoint_000001":
            (folder.parent / "secret").mkdir()
        assert "link that leaves" in refuse("ray-tune", root), name
        path.unlink()
        kept.rename(path)
    (root / "zookeeper.json").symlink_to("/etc/hostname")
    assert "link that leaves" in refuse("ray-tune", root)


@pytest.mark.skipif(os.name != "posix", reason="needs links and pipes")
def test_links_inside_the_folder_are_followed_and_pipes_are_not(
    refuse: Callable[..., str], folder: Path, tmp_path: Path
) -> None:
    from zookeeper.interop.importing import import_zoo

    torch.save(GOOD, folder / "a.pt")
    (folder / "b.pt").symlink_to("a.pt")
    assert import_zoo("state-dict", folder, tmp_path / "linked").num_models == 2
    (folder / "b.pt").unlink()
    os.mkfifo(folder / "b.pt")
    assert "not a regular file" in refuse("state-dict", folder)


def write_all(folder: Path) -> dict[str, Path]:
    """One good file of each kind, in folders of their own."""
    arrays = {"fc.weight": np.arange(600, dtype=np.float32).reshape(20, 30)}
    paths = {}
    for name in ("zip.pt", "old.pt", "a.safetensors", "a.npz", "weights.npy", "dataset.pt"):
        (folder / name).mkdir()
        paths[name] = folder / name / name
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save(tensors, paths["zip.pt"])
    torch.save(tensors, paths["old.pt"], _use_new_zipfile_serialization=False)
    torch.save({"trainset": {"data": tensors["fc.weight"]}}, paths["dataset.pt"])
    save_file(arrays, paths["a.safetensors"])
    np.savez(paths["a.npz"], allow_pickle=False, **arrays)
    np.save(paths["weights.npy"], arrays["fc.weight"])
    (folder / "weights.npy" / "metrics.csv").write_text("lr\n" + "0.1\n" * 20)
    return paths


FORMATS = {
    "zip.pt": "state-dict",
    "old.pt": "state-dict",
    "a.safetensors": "safetensors",
    "a.npz": "npz",
    "weights.npy": "npy",
    "dataset.pt": "dataset-pt",
}


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_files(refuse: Callable[..., str], folder: Path, tmp_path: Path, name: str) -> None:
    from zookeeper.interop.importing import import_zoo

    path = write_all(folder)[name]
    data = path.read_bytes()
    assert import_zoo(FORMATS[name], path.parent, tmp_path / "good").num_checkpoints >= 1
    for length in (0, 1, 7, 40, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        refuse(FORMATS[name], path.parent)


@pytest.mark.parametrize("name", FORMATS)
def test_any_flipped_byte_is_refused_or_read_as_numbers(folder: Path, tmp_path: Path, name: str) -> None:
    from zookeeper.interop.importing import find_source
    from zookeeper.interop.source import ImportOptions

    path = write_all(folder)[name]
    data, draw = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for place in draw.integers(0, min(len(data), 700), 150).tolist():
        path.write_bytes(data[:place] + bytes([data[place] ^ int(draw.integers(1, 256))]) + data[place + 1 :])
        try:
            source = find_source(FORMATS[name], path.parent, ImportOptions(dtype="float64"))
            for model in source.models:
                source.read(model)
        except InputError:
            refused += 1
    assert refused > 10


def test_weights_of_another_type(refuse: Callable[..., str], folder: Path) -> None:
    torch.save({"fc.weight": torch.arange(6).reshape(2, 3)}, folder / "a.pt")
    assert "int64; expected floats" in refuse("state-dict", folder)
    torch.save({"fc.weight": "text"}, folder / "a.pt")
    assert "expected a state dict" in refuse("state-dict", folder)
    torch.save(torch.nn.Linear(2, 2), folder / "a.pt")
    assert "Save a state_dict" in refuse("state-dict", folder)
    np.savez(folder / "a.npz", w=np.array([{"a": 1}], object))
    assert "objects are pickles" in refuse("npz", folder)
    np.save(folder / "weights.npy", np.zeros((1, 4970)))
    (folder / "metrics.csv").write_text("modeldir,step\na,0\n")
    assert "expected float32[1, 4970]" in refuse("unterthiner", folder)


def test_npy_headers_that_lie(refuse: Callable[..., str], folder: Path) -> None:
    (folder / "metrics.csv").write_text("lr\n0.1\n")
    for shape in (
        "(1099511627776, 4970)",
        "(-1, 3)",
        "(1.5, 2)",
        "(1,) * 9",
        "__import__('os').system('touch hacked')",
    ):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        prefix = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
        (folder / "weights.npy").write_bytes(prefix + header.encode() + bytes(64))
        refuse("npy", folder)


SAFETENSORS: dict[str, bytes] = {
    "absurd header": struct.pack("<Q", 1 << 60) + b"{}",
    "no header": b"",
    "not json": struct.pack("<Q", 4) + b"abcd",
    "deep json": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "a list": struct.pack("<Q", 2) + b"[]",
}
for _title, _entry in {
    "beyond the end": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
    "negative": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
    "gap": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
    "rest": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    "shape": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 8]},
    "negative shape": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]},
    "text shape": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]},
    "type": {"dtype": "PICKLE", "shape": [2], "data_offsets": [0, 8]},
    "no offsets": {"dtype": "F32", "shape": [2]},
}.items():
    _text = json.dumps({"fc.weight": _entry}).encode()
    SAFETENSORS[_title] = struct.pack("<Q", len(_text)) + _text + bytes(8)


@pytest.mark.parametrize("data", SAFETENSORS.values(), ids=SAFETENSORS)
def test_safetensors_that_lie(refuse: Callable[..., str], folder: Path, data: bytes) -> None:
    (folder / "a.safetensors").write_bytes(data)
    refuse("safetensors", folder)


RESULTS = {
    "no json": "{",
    "a list": "[1]\n",
    "nan": '{"training_iteration": NaN}\n',
    "infinite": '{"training_iteration": 1e999}\n',
    "fraction": '{"training_iteration": 0.5}\n',
    "negative": '{"training_iteration": -1}\n',
    "text metric": '{"training_iteration": 1, "test_acc": "high"}\n',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", RESULTS.values(), ids=RESULTS)
def test_results_that_are_none(ray_folder: Callable[..., Any], refuse: Callable[..., str], text: str) -> None:
    root, _ = ray_folder()
    (next(root.glob("*00394*")) / "result.json").write_text(text)
    refuse("ray-tune", root)


def test_damaged_files_can_be_left_out(ray_folder: Callable[..., Any], tmp_path: Path) -> None:
    from zookeeper.interop.importing import import_zoo
    from zookeeper.interop.source import ImportOptions

    root, _ = ray_folder()
    (next(root.glob("*00395*")) / "checkpoint_000005" / "checkpoints").write_bytes(pickle.dumps(os_system()))
    done = import_zoo("ray-tune", root, tmp_path / "zoo", ImportOptions(skip_damaged=True))
    assert done.num_checkpoints == 5
    assert verify_zoo(tmp_path / "zoo", deep=True).clean  # models of unequal length in one block
    (entry,) = (entry for entry in done.skipped if entry["reason"] == "damaged or refused weights")
    assert ".system, which is code" in entry["examples"][0]


def test_a_sidecar_that_lies(make_zoo: Callable[..., Zoo], refuse: Callable[..., str], tmp_path: Path) -> None:
    from zookeeper.interop.exporting import export_zoo

    export_zoo("npy", make_zoo(), tmp_path / "out")
    path = tmp_path / "out" / "zookeeper.json"
    sound = json.loads(path.read_text())
    width = sum(int(np.prod(block["shape"])) for block in sound["layouts"][0]["blocks"])
    block = {"name": "a.weight", "kind": "weight", "offset": 0}
    for change in (
        {"layouts": [{"version": 1, "blocks": [{**block, "shape": [-1, -width]}]}]},
        {"layouts": [{"version": 1, "blocks": [{**block, "shape": [1 << 40]}]}]},
        {"layouts": 5},
        {"columns": {"weights": "float"}},
        {"columns": {**sound["columns"], "note": "int"}},
        {"columns": {**sound["columns"], "seed": "pickle"}},
        {"image": {"name": "a"}},
        {"format": "other"},
    ):
        path.write_text(json.dumps({**sound, **change}))
        refuse("npy", tmp_path / "out")


def test_an_architecture_in_a_table_imports_nothing(folder: Path, tmp_path: Path) -> None:
    from zookeeper.interop.importing import import_zoo

    torch.save({"fc1.weight": torch.zeros(5, 16), "fc2.weight": torch.zeros(4, 5)}, folder / "a.pt")
    (folder / "t.csv").write_text("file,architecture,activation\na.pt,os:system,tanh\n")
    import_zoo("state-dict", folder, tmp_path / "zoo")
    with pytest.raises(InputError, match="would import code"):
        open_zoo(tmp_path / "zoo").network("a", 0)


def test_questions_that_make_no_sense(refuse: Callable[..., str], folder: Path) -> None:
    torch.save(GOOD, folder / "a.pt")
    assert "expected one of ray-tune" in refuse("onnx", folder)
    assert "no such directory" in refuse("npz", folder / "nowhere")
    assert "no files *.npz" in refuse("npz", folder)
    assert "no models" in refuse("ray-tune", folder)
    assert "does not have the tensors" in refuse("state-dict", folder, "--architecture", "cnn-small")
    assert "--split" in refuse("state-dict", folder, "--split", "0.5,0.5")
    assert "--image" in refuse("state-dict", folder, "--image", "28x28")
    assert "dtype" in refuse("state-dict", folder, "--dtype", "int8")
