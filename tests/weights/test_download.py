"""Downloads from a local server that simulates the faults of real servers."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vswin_jax.errors import InputError
from vswin_jax.weights import download as download_module
from vswin_jax.weights.download import download

CONTENT = bytes(range(256)) * 4000  # about one chunk
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """The server's file and faults, and a record of the requested ranges."""

    content: bytes = CONTENT
    tag: str = '"one"'
    kind: str = "application/octet-stream"
    cuts: list[int] = field(default_factory=list)  # bytes sent before each answer breaks off
    ranges: list[str | None] = field(default_factory=list)
    supports_ranges: bool = True
    skips: int = 0  # bytes left out at the start of a range
    address: str = ""


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/missing.pth":
                return self.send_error(404)
            site.ranges.append(requested := self.headers.get("Range"))
            start = 0
            if requested and site.supports_ranges and self.headers.get("If-Range") == site.tag:
                start = int(requested.removeprefix("bytes=").rstrip("-"))
            if start >= len(site.content) > 0:
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(site.content) - start))
            self.send_header("Content-Type", site.kind)
            if start:
                last = len(site.content)
                self.send_header("Content-Range", f"bytes {start + site.skips}-{last - 1}/{last}")
            if site.tag:
                self.send_header("ETag", site.tag)
            self.end_headers()
            stop = start + site.cuts.pop(0) if site.cuts else None
            with contextlib.suppress(ConnectionError):  # when the client closes early
                self.wfile.write(site.content[start:stop])
            self.close_connection = True
            return None

        def log_message(self, *_: object) -> None:
            """Discard the log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield site
    server.shutdown()
    server.server_close()


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_downloaded_with_its_digest(site: Site, tmp_path: Path) -> None:
    destination = tmp_path / "cache" / "a.pth"
    lines: list[str] = []
    download(
        f"{site.address}/a.pth",
        destination,
        expected_size=len(CONTENT),
        sha256=DIGEST[:8],
        progress=lines.append,
    )
    assert destination.read_bytes() == CONTENT
    assert files(destination.parent) == ["a.pth", "a.pth.sha256"]
    assert (tmp_path / "cache" / "a.pth.sha256").read_text().startswith(f"{DIGEST}  a.pth\n")
    assert [line.split()[0] for line in lines] == ["downloading", "a.pth"]


def test_progress_has_rate_and_time_left(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "_INTERVAL", 0.0)
    lines: list[str] = []
    download(f"{site.address}/a.pth", tmp_path / "a.pth", progress=lines.append)
    assert lines[1].startswith("a.pth: ")
    assert " MB/s, 1.0 MB in all, " in lines[1]
    assert lines[1].endswith("s left")


def test_a_broken_transfer_is_resumed_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.cuts = [1000, 500]
    download(f"{site.address}/a.pth", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=1000-", "bytes=1500-"]


def test_a_transfer_without_progress_is_resumed_by_the_next_call(
    site: Site, tmp_path: Path
) -> None:
    site.cuts = [1000, 0]
    with pytest.raises(
        InputError, match=r"broke off after 1000 bytes .*run this again to resume.*by hand"
    ):
        download(f"{site.address}/a.pth", tmp_path / "a.pth")
    assert files(tmp_path) == ["a.pth.part", "a.pth.part.version"]
    download(f"{site.address}/a.pth", tmp_path / "a.pth")
    assert site.ranges[-1] == "bytes=1000-"
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("change", ["another version", "no ranges", "no version", "shorter"])
def test_a_part_that_cannot_be_resumed_is_downloaded_again(
    site: Site, tmp_path: Path, change: str
) -> None:
    site.cuts = [1000, 0]
    site.tag = "" if change == "no version" else site.tag
    with pytest.raises(InputError, match="broke off"):
        download(f"{site.address}/a.pth", tmp_path / "a.pth")
    site.supports_ranges = change != "no ranges"
    if change in ("another version", "shorter"):
        site.content = CONTENT[::-1] if change == "another version" else CONTENT[:900]
    site.tag = '"two"' if change == "another version" else site.tag
    download(f"{site.address}/a.pth", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == site.content


def test_a_range_other_than_the_requested_one_is_not_appended(site: Site, tmp_path: Path) -> None:
    site.cuts, site.skips = [1000], 7
    with pytest.raises(InputError, match=r"the rest from byte 1000 did not come; delete .*part"):
        download(f"{site.address}/a.pth", tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()


def test_a_server_without_versions_that_breaks_off_is_not_retried_forever(
    site: Site, tmp_path: Path
) -> None:
    site.tag, site.cuts = "", [10] * 100
    with pytest.raises(InputError, match="broke off"):
        download(f"{site.address}/a.pth", tmp_path / "a.pth")
    assert len(site.ranges) == 2


def test_an_unexpected_file_is_refused_and_deleted(site: Site, tmp_path: Path) -> None:
    url, path = f"{site.address}/a.pth", tmp_path / "a.pth"
    for expectation, message in (
        ({"sha256": "0123abcd"}, f"SHA-256 begins with {DIGEST[:8]} instead of 0123abcd"),
        ({"expected_size": 7}, f"it has {len(CONTENT)} bytes there instead of 7"),
    ):
        with pytest.raises(InputError, match=message) as error:
            download(url, path, **expectation)
        assert url in str(error.value)
        assert str(path) in str(error.value)
        assert not path.exists()
    site.kind = "text/html; charset=utf-8"
    with pytest.raises(InputError, match="a web page came instead of a checkpoint"):
        download(url, path)
    with pytest.raises(InputError, match="the server responds 404 Not Found; check the address"):
        download(f"{site.address}/missing.pth", path)
    assert files(tmp_path) == []


def test_the_error_without_a_connection_names_file_url_and_destination(tmp_path: Path) -> None:
    # No service listens on port 9 of this machine.
    with pytest.raises(InputError, match=r"no connection.*check the network") as error:
        download("http://127.0.0.1:9/swin.pth", tmp_path / "swin.pth")
    for part in ("swin.pth could not", "http://127.0.0.1:9/swin.pth", str(tmp_path / "swin.pth")):
        assert part in str(error.value)


def test_an_unwritable_destination_and_another_scheme_are_errors(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written to .*VSWIN_CACHE"):
        download(f"{site.address}/a.pth", tmp_path / "file" / "a.pth")
    with pytest.raises(InputError, match="Expected an http or https URL but 'file:///etc/passwd'"):
        download("file:///etc/passwd", tmp_path / "a.pth")


def test_concurrent_downloads_make_one_file(site: Site, tmp_path: Path) -> None:
    site.cuts = [1000, 1000]
    target = (f"{site.address}/a.pth", tmp_path / "a.pth")
    threads = [threading.Thread(target=download, args=target) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert files(tmp_path) == ["a.pth", "a.pth.sha256"]
    assert len(site.ranges) == 3
