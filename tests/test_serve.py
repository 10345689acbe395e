"""The command line of the server; its answers are tested in tests/inference/serving."""

import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from http_client import ask
from served_runs import served_run

from vswin_jax.serve import run

if TYPE_CHECKING:
    from conftest import Run

pytest.importorskip("uvicorn", reason="the server is an extra")


@pytest.mark.long
def test_a_signal_ends_the_server(tiny_run: "Run", tmp_path: Path) -> None:
    with served_run(tiny_run.workdir, tmp_path, "--max-mb=7", "--decoders=1") as server:
        assert ask(f"{server.url}/model").json["max_bytes"] == 7_000_000
        assert len(list(tmp_path.iterdir())) == 1
        assert server.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    opened, serving, limits, request = server.lines
    assert opened.startswith("the checkpoint of step 40 in ")
    assert serving.startswith("serving swin_tiny (8 classes, step 40) at http://127.0.0.1:")
    assert limits.startswith("limits: videos of 7 MB, 300 seconds a request")
    assert request.startswith("127.0.0.1 GET /model 200 ")


def test_wrong_input_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = f"--checkpoint={tmp_path / 'nowhere'}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, words in (
            ([f"--port={port}"], f"cannot listen at 127.0.0.1:{port} (Address already in use)"),
            (["--port=70000"], "Expected the --port as a number from 0 to 65535 but 70000 came"),
            (["--port=0", "--host=256.1.1.1"], "cannot listen at 256.1.1.1:0"),
            (["--port=0", "--max-mb=0"], "Expected --max-mb to be a number above 0 but 0.0 came"),
            (["--port=0", "--timeout=nan"], "Expected --timeout to be a number above 0"),
            (["--port=0", "--max-requests=0"], "Expected --max-requests to be 1 or more"),
            (["--port=0", "--max-windows=1"], "Expected --max-windows to be 2 or more"),
            (["--port=0"], "nowhere"),
        ):
            assert run([nowhere, *arguments]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith("error: ")
            assert words in line
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run([nowhere]) == 2
    assert capsys.readouterr().err == (
        "error: Serving a model needs Starlette, uvicorn and python-multipart, and uvicorn is not "
        "installed: run pip install -e '.[demo]'.\n"
    )
