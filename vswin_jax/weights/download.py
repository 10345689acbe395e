"""Downloads of http and https URLs, with resumption and checks.

Until a file is complete, its name is `<name>.part`, and `<name>.part.version` holds the server's
ETag or modification time. The next call resumes from these two files.
"""

import contextlib
import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from filelock import lock_descriptor

from vswin_jax.errors import InputError
from vswin_jax.runtime.progress import RateMeter, WriteLine
from vswin_jax.weights.files import digests

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_INTERVAL = 5.0  # seconds between two progress lines
_BROKEN_CONNECTION = (OSError, http.client.HTTPException)


def download(
    url: str,
    destination: str | os.PathLike[str],
    *,
    expected_size: int | None = None,
    sha256: str | None = None,
    progress: WriteLine = _log.info,
) -> None:
    """Download `url` to the file `destination`, unless it exists.

    A broken transfer is resumed as long as every attempt adds bytes, and by the next call. One
    process at a time downloads a file; others wait for it. `expected_size` (bytes) and `sha256`
    (all or the first digits) are checked unless None. `progress` gets a line every few seconds.

    Raises:
      InputError: no connection, no such file, a web page, another size or digest, or no permission
        to write. The message gives the URL and the path for a file that is downloaded by hand.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(
            f"Expected an http or https URL but {url!r} came: give a file of this machine by path."
        )
    _Download(
        url=url,
        destination=Path(destination),
        expected_size=expected_size,
        sha256=sha256,
        progress=progress,
    ).run()


@dataclass(frozen=True)
class _Download:
    url: str
    destination: Path
    expected_size: int | None
    sha256: str | None
    progress: WriteLine

    @property
    def part(self) -> Path:
        return self.destination.with_name(f"{self.destination.name}.part")

    @property
    def version(self) -> Path:
        return self.part.with_name(f"{self.part.name}.version")

    def run(self) -> None:
        with self._locked_part() as file:
            if file is None:
                return
            try:
                self._download(file)
            finally:
                self._remove_empty_part()

    @contextlib.contextmanager
    def _locked_part(self) -> Iterator[BinaryIO | None]:
        """Yield the partial file, open and locked; None once the destination exists."""
        while True:
            with self._open_part() as file:
                # A file system without locks raises; the download then continues without a lock.
                with contextlib.suppress(OSError):
                    lock_descriptor(file.fileno())
                # The process that held the lock before may have renamed the file, so the path may
                # now refer to a file other than the locked one, or to none.
                is_current = self.part.exists() and os.path.samestat(
                    os.fstat(file.fileno()), self.part.stat()
                )
                if not self.destination.exists() and not is_current:
                    continue
                if self.destination.exists() and is_current:
                    self.part.unlink()
                yield None if self.destination.exists() else file
                return

    def _open_part(self) -> BinaryIO:
        try:
            self.destination.parent.mkdir(parents=True, exist_ok=True)
            return open(self.part, "ab")
        except OSError as error:
            raise self._cannot_write(error) from None

    def _download(self, file: BinaryIO) -> None:
        """Transfer the missing bytes, check the file and rename it to the destination."""
        start = time.monotonic()
        self.progress(f"downloading {self.url} to {self.destination}")
        self._transfer_until_complete(file)
        digest = digests.sha256_of(self.part)
        if self.sha256 and not digest.startswith(self.sha256):
            self._discard_part(file)
            raise self._failure(
                f"its SHA-256 begins with {digest[:8]} instead of {self.sha256[:8]}", "try again"
            )
        self.version.unlink(missing_ok=True)
        os.replace(self.part, self.destination)
        digests.record(self.destination, digest)
        elapsed = time.monotonic() - start
        self.progress(f"{self.destination.name} is complete after {elapsed:.0f} s")

    def _remove_empty_part(self) -> None:
        if self.part.exists() and self.part.stat().st_size == 0:
            self.part.unlink()

    def _transfer_until_complete(self, file: BinaryIO) -> None:
        furthest = 0
        while True:
            start = self._resumable_bytes(file)
            reason = "the connection was closed"
            try:
                total = self._transfer(file, start)
                if total is None or file.tell() == total:
                    return
            except urllib.error.HTTPError as error:
                self._restart_or_fail(file, start, error)
                continue
            except urllib.error.URLError as error:
                reason = f"there is no connection ({error.reason})"
                raise self._failure(reason, "check the network") from None
            except _BROKEN_CONNECTION as error:
                reason = str(error) or type(error).__name__
            furthest = self._check_progress(file, max(start, furthest), reason)

    def _restart_or_fail(self, file: BinaryIO, start: int, error: urllib.error.HTTPError) -> None:
        """Discard a part that is longer than the server's present file; raise other errors."""
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            reason = f"the server responds {error.code} {error.reason}"
            raise self._failure(reason, "check the address") from None
        self._discard_part(file)

    def _check_progress(self, file: BinaryIO, furthest: int, reason: str) -> int:
        """Return the position in `file`, which has to be beyond `furthest`."""
        if file.tell() <= furthest:
            raise self._failure(
                f"it broke off after {file.tell()} bytes ({reason})",
                "run this again to resume from there",
            )
        return file.tell()

    def _resumable_bytes(self, file: BinaryIO) -> int:
        # Without a version, the rest could be of another file than the part.
        if not self.version.exists():
            file.truncate(0)
        return file.seek(0, os.SEEK_END)

    def _transfer(self, file: BinaryIO, start: int) -> int | None:
        """Append the bytes from `start` on; return the whole size, or None if it is unknown."""
        headers = {"User-Agent": "vswin_jax", "Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": self.version.read_text()}
        request = urllib.request.Request(self.url, headers=headers)
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            # Any other status means that the whole file comes: the version has changed, or the
            # server does not support ranges.
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                self._discard_part(file)
            total = self._checked_size(response, file.tell())
            self._save_version(response.headers)
            transfer_log = _TransferLog(self.destination.name, file.tell(), total, self.progress)
            while chunk := response.read(_CHUNK_BYTES):
                self._write(file, chunk)
                transfer_log.update(file.tell())
        return total

    def _checked_size(self, response: http.client.HTTPResponse, start: int) -> int | None:
        """Return the whole file's size in bytes; None if it is unknown."""
        if response.headers.get_content_type() == "text/html":
            raise self._failure("a web page came instead of a checkpoint", "check the address")
        if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise self._failure(f"the rest from byte {start} did not come", f"delete {self.part}")
        total = self.expected_size if response.length is None else start + response.length
        if self.expected_size is not None and total != self.expected_size:
            reason = f"it has {total} bytes there instead of {self.expected_size}"
            raise self._failure(reason, "check the address")
        return total

    def _save_version(self, headers: http.client.HTTPMessage) -> None:
        # A weak ETag (W/...) does not guarantee the same bytes.
        tag = headers.get("ETag", "W/")
        version = headers.get("Last-Modified") if tag.startswith("W/") else tag
        if version:
            self.version.write_text(version)

    def _write(self, file: BinaryIO, chunk: bytes) -> None:
        try:
            file.write(chunk)
            file.flush()
        except OSError as error:
            raise self._cannot_write(error) from None

    def _discard_part(self, file: BinaryIO) -> None:
        file.seek(0)
        file.truncate()
        self.version.unlink(missing_ok=True)

    def _failure(self, reason: str, remedy: str) -> InputError:
        return InputError(
            f"{self.destination.name} could not be downloaded from {self.url}: {reason}; {remedy}, "
            f"or put the file at {self.destination} by hand."
        )

    def _cannot_write(self, error: OSError) -> InputError:
        return InputError(
            f"{self.destination.name} from {self.url} cannot be written to "
            f"{self.destination.parent} ({error.strerror}): make room there, or set VSWIN_CACHE "
            f"to another directory."
        )


class _TransferLog:
    """Writes a line about the progress of a transfer from byte `start` every few seconds."""

    def __init__(self, name: str, start: int, total: int | None, write_line: WriteLine) -> None:
        self._name = name
        self._start = start
        self._total = total
        self._write_line = write_line
        self._meter = RateMeter(_INTERVAL)

    def update(self, position: int) -> None:
        rate = self._meter.rate_if_due(position - self._start)
        if rate is None:
            return
        line = f"{self._name}: {position / 1e6:.1f} MB at {rate / 1e6:.1f} MB/s"
        if self._total:
            left = (self._total - position) / rate
            line = f"{line}, {self._total / 1e6:.1f} MB in all, {left:.0f} s left"
        self._write_line(line)
