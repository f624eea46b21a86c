"""docs/format.md is enough to read a zoo: its reader runs here, without any of our code."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from zookeeper.store.encoding import COMPRESSIONS, DTYPES, Encoding
from zookeeper.store.header import read_header
from zookeeper.store.records import read_commits

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "format.md"
GOLDEN = Path(__file__).parent / "golden"
USE = """
import sys
for root in sys.argv[1:]:
    rows = read_zoo(root)
    print(json.dumps([[line["model_id"], line["epoch"], line["test_acc"], weights] for line, weights in rows]))
"""
ENCODINGS = [Encoding(b, d, c) for b in COMPRESSIONS for d in DTYPES for c in COMPRESSIONS[b]]


def foreign_reader() -> str:
    (code,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert "zookeeper" not in re.findall(r"^\s*(?:import|from)\s+(\w+)", code, flags=re.MULTILINE)
    return code


def read_with_the_document(roots: list[Path], *, blocked: tuple[str, ...] = ()) -> list[list[Any]]:
    block = "".join(f"import sys; sys.modules[{name!r}] = None\n" for name in ("zookeeper", "hyperrep", *blocked))
    program = block + foreign_reader() + USE
    command = [sys.executable, "-c", program, *map(str, roots)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_reader_of_the_document_reads_every_encoding(make_toy: Callable[..., Any], backend: str) -> None:
    chosen = [encoding for encoding in ENCODINGS if encoding.backend == backend]
    toys = [make_toy(f"zoo{number}", encoding=encoding).fill() for number, encoding in enumerate(chosen)]
    blocked = ("h5py",) if backend == "parquet" else ()
    for toy, rows in zip(toys, read_with_the_document([toy.root for toy in toys], blocked=blocked), strict=True):
        assert len(rows) == 36
        close = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(toy.encoding.dtype, 0.0)
        for model_id, epoch, test_acc, weights in rows:
            expected = toy.expected(model_id[0], int(model_id[1:]), epoch)
            np.testing.assert_allclose(np.float32(weights), expected, rtol=close, atol=close / 1000)
            assert 0 <= test_acc < 1


def test_the_reader_of_the_document_reads_the_golden_zoos() -> None:
    roots = sorted(path.parent for path in GOLDEN.glob("*/zoo.json"))
    assert len(roots) == 8
    for rows in read_with_the_document(roots):
        found = {(model, epoch): weights for model, epoch, _, weights in rows}
        assert sorted(found) == [("aa", 0), ("aa", 1), ("aa", 5), ("bb", 0), ("bb", 1), ("bb", 5), ("cc", 0)]
        assert found["aa", 5] == [-0.5, 0.125, 0.75, -0.75, -0.125, 0.5, -1.0, 2.0]


def test_without_spans_the_document_reads_the_same(make_toy: Callable[..., Any]) -> None:
    toy = make_toy().fill()
    with_spans = read_with_the_document([toy.root])
    for path in (toy.root / "commits").iterdir():
        path.write_text(json.dumps({**json.loads(path.read_text()), "spans": None}))
    assert read_with_the_document([toy.root]) == with_spans


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_hashes_are_what_the_document_says(make_toy: Callable[..., Any], compression: str) -> None:
    """Computed from the files with hashlib and xxhash alone."""
    toy = make_toy(encoding=Encoding(compression=compression)).fill()
    header = json.loads((toy.root / "zoo.json").read_text())
    content = {k: header[k] for k in ("name", "kind", "cohorts", "layouts", "image", "spec", "store") if k in header}
    assert header["digest"] == hashlib.sha256(canonical(content)).hexdigest() == read_header(toy.root).digest
    assert header["check"] == xxhash.xxh3_128_hexdigest(canonical({k: v for k, v in header.items() if k != "check"}))
    names = ["float32" if "encoding" not in record else record["encoding"]["dtype"] for record in records_of(toy.root)]
    assert set(names) == {"float32"}
    for record, parsed in zip(records_of(toy.root), read_commits(toy.root), strict=True):
        assert record["check"] == xxhash.xxh3_128_hexdigest(
            canonical({k: v for k, v in record.items() if k != "check"})
        )
        assert record["format_version"] == (1 if compression == "none" else 2)
        for name in ("shard", "meta", "state"):
            if record[name] is not None and (toy.root / record[name]["file"]).exists():
                data = (toy.root / record[name]["file"]).read_bytes()
                assert (record[name]["size"], record[name]["xxh3"]) == (len(data), xxhash.xxh3_128_hexdigest(data))
        epochs = tuple(range(parsed.first_epoch, parsed.last_epoch + 1))
        rows = toy.rows(parsed.cohort, epochs).astype("<f4")
        assert record["weights_xxh3"] == xxhash.xxh3_128_hexdigest(rows.tobytes())


def records_of(root: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in (root / "commits").iterdir()]
    return sorted(found, key=lambda record: (record["cohort"], record["first_epoch"]))


def test_every_key_and_column_that_is_written_is_in_the_document(make_toy: Callable[..., Any]) -> None:
    text = DOCUMENT.read_text()
    toy = make_toy(encoding=Encoding("hdf5", "float16")).fill()
    header = json.loads((toy.root / "zoo.json").read_text())
    record = records_of(toy.root)[0]
    words = {*header, *header["store"], *record, *record["shard"], *record["spans"], *record["encoding"]}
    words |= {*DTYPES, *COMPRESSIONS, *(name for names in COMPRESSIONS.values() for name in names)}
    assert {word for word in words if f"`{word}`" not in text and f'"{word}"' not in text} == set()
