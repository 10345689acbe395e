"""The checks and the lines of every request; refusals are tested in test_web_app.py."""

import pytest
from http_client import ask

from vswin_jax.inference.serving.listening_socket import is_local, listen, server_url
from vswin_jax.inference.serving.serve_settings import ServeSettings

pytest.importorskip("uvicorn", reason="the server is an extra")
from starlette.responses import PlainTextResponse

from vswin_jax.inference.serving.request_guard import RequestGuard
from vswin_jax.inference.serving.server_thread import ServerThread


def test_all_names_may_be_allowed_and_a_line_is_one_line() -> None:
    lines: list[str] = []
    settings = ServeSettings(allow_hosts=("*",))
    app = RequestGuard(PlainTextResponse("yes"), settings, lines.append)
    with listen("127.0.0.1", 0) as listening:
        thread = ServerThread(app, listening)
        thread.start()
        url = server_url("127.0.0.1", listening)
        assert ask(f"{url}/a%0Ab%1b[31m?c", Host="videos.example").body == b"yes"
        thread.stop()
    assert [line.rpartition(" 200 ")[0] for line in lines] == ["127.0.0.1 GET /a\\nb\\x1b[31m"]


def test_an_address_of_all_networks_is_not_local() -> None:
    for host, expected in (("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)):
        with listen(host, 0) as listening:
            assert is_local(listening) == expected
            assert server_url(host, listening).endswith(f":{listening.getsockname()[1]}")
