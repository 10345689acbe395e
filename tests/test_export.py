"""The command line; the exports themselves are tested in tests/inference/exports."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vswin_jax.export import run

if TYPE_CHECKING:
    from conftest import Run


def test_command_line(tiny_run: "Run", tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.stablehlo"
    arguments = [str(out), "--to=stablehlo", f"--checkpoint={tiny_run.workdir}"]
    assert run(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"exported to {out}, described in {out}.json"
    assert lines[1].startswith(f"size: {out.stat().st_size / 1e6:.1f} MB; the parameters have ")
    assert lines[2].startswith("largest difference of a probability: ")
    assert lines[2].endswith(", on 4 clips (moving shapes)")
    assert lines[3].count("clips/s") == 2
    assert run(arguments) == 2
    assert capsys.readouterr().err == (
        f"error: '{out}' already exists: give another name, or --overwrite.\n"
    )


def test_wrong_inputs(tiny_run: "Run", tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    out, here = str(tmp_path / "out"), f"--checkpoint={tiny_run.workdir}"
    for arguments, words in (
        ([here, "--clips", str(tmp_path / "text.mp4")], "text.mp4"),
        ([f"--checkpoint={tmp_path / 'nowhere'}"], "nowhere"),
        ([here, "--plugins=no_such_module"], "no_such_module"),
    ):
        assert run([out, "--to=stablehlo", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.splitlines()[-1].startswith("error: ")
        assert words in captured.err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["text.mp4"]


@pytest.mark.long
def test_ctrl_c_leaves_nothing(tiny_run: "Run", tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vswin_jax.export", str(tmp_path / "out"), "--to=stablehlo"]
    process = subprocess.Popen(
        [*command, f"--checkpoint={tiny_run.workdir}"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert process.stderr is not None
    while not process.stderr.readline().startswith("writing"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.stderr.read() == "Ctrl-C stopped the export: nothing was written.\n"
    assert process.wait() == 130
    assert list(tmp_path.iterdir()) == []
