"""The command as a process: pipes, a terminal and what it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import zookeeper

PACKAGE = Path(zookeeper.__file__).parent.parent


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "zookeeper.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
    )


def test_closed_pipe_is_no_traceback(zoo: Path) -> None:
    process = start("query", zoo, "epoch >= 0", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() in (0, 1)
    assert err == ""


def test_reading_commands_do_not_load_torch(zoo: Path) -> None:
    code = f"""
import json, sys
sys.argv = ["zookeeper", "query", {str(zoo)!r}, "epoch == 0", "--json", "--columns", "lr"]
from zookeeper.cli import main
try:
    main()
finally:
    print(json.dumps([name for name in ("torch", "ray", "sklearn") if name in sys.modules]))
"""
    env = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_shows_a_bar(spec: Path, tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    command = [sys.executable, "-m", "zookeeper.cli", "build", str(spec), "--out", str(tmp_path / "zoo"), "--json"]
    env = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=env, timeout=120)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.returncode == 0
    assert json.loads(done.stdout)["num_models"] == 12
    last = shown.replace("\r\n", "\r").strip("\r").split("\r")[-1]
    assert "36/36 model-epochs" in last or "36.0/36.0 model-epochs" in last
    assert "ETA 00:00" in last
    assert "models 12/12, best " in last
