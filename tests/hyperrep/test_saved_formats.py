"""Folders that older releases wrote load for ever and encode as they did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hyperrep.training.saved import load

FOLDER = Path(__file__).parent / "golden" / "format1"


def test_a_folder_of_format_1_loads_and_encodes_as_it_did(tmp_path: Path) -> None:
    hyper = load(FOLDER)
    expected = json.loads((FOLDER / "expected.json").read_text())
    num = hyper.layout.num_weights
    rows = torch.arange(2 * num, dtype=torch.float32).reshape(2, num).mul(0.37).sin()
    assert hyper.encode(rows).flatten().tolist() == pytest.approx(expected["latents"], rel=1e-4, abs=1e-5)
    assert hyper.reconstruct(rows).flatten().tolist() == pytest.approx(expected["rows"], rel=1e-4, abs=1e-5)


def test_what_format_1_can_say_is_written_as_format_1(tmp_path: Path) -> None:
    load(FOLDER).save(tmp_path)
    for name in ("config.json", "layout.json", "scaling.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name
