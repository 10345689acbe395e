"""A file from a URL: resumed where it broke off, checked, and given its name when it is complete.

Nothing but http and https is taken. Until a file is complete it is `<name>.part`, with what the
server said of its version in `<name>.part.version`; a call that finds these goes on from there.
"""

import contextlib
import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from vswin_jax.errors import InputError
from vswin_jax.runtime.file_lock import lock
from vswin_jax.weights.files import digests

_log = logging.getLogger(__name__)

Say = Callable[[str], None]

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_SAY_EVERY = 5.0  # seconds
_BROKEN = (OSError, http.client.HTTPException)


def download(
    url: str,
    destination: str | os.PathLike[str],
    *,
    expected_size: int | None = None,
    sha256: str | None = None,
    progress: Say = _log.info,
) -> None:
    """Downloads `url` to the file `destination`, unless it is there.

    A transfer that breaks off is resumed as long as it gets any further, and by the next call.
    Processes that want the same file wait for the one that is at it. The file's SHA-256 is kept
    in `<destination>.sha256`.

    Args:
      expected_size: bytes; None takes what the server says.
      sha256: all or the first of its hexadecimal digits; None takes any.
      progress: gets a line every few seconds, with rate and time left.

    Raises:
      InputError: no connection, no such file, a web page, another size or digest, or no place to
        write; the sentence names file and URL, and where to put the file by hand.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(
            f"Expected an http or https URL but {url!r} came: give a file of this machine by path."
        )
    job = _Job(url, Path(destination), expected_size, sha256, progress)
    with job.only_one_process() as file:
        if file is None:
            return
        try:
            job.run(file)
        finally:
            job.leave_nothing_empty()


@dataclass(frozen=True)
class _Job:
    url: str
    destination: Path
    expected_size: int | None
    sha256: str | None
    say: Say

    @property
    def part(self) -> Path:
        return self.destination.with_name(f"{self.destination.name}.part")

    @property
    def version(self) -> Path:
        return self.part.with_name(f"{self.part.name}.version")

    @contextlib.contextmanager
    def only_one_process(self) -> Iterator[BinaryIO | None]:
        """The partial file, open and locked; None if the destination is there, perhaps by now."""
        while True:
            with self._open() as file:
                lock(file)
                # Whoever had the lock before may have finished and renamed the file under us.
                is_ours = self.part.exists() and os.path.samestat(
                    os.fstat(file.fileno()), self.part.stat()
                )
                if not self.destination.exists() and not is_ours:
                    continue
                if self.destination.exists() and is_ours:
                    self.part.unlink()
                yield None if self.destination.exists() else file
                return

    def _open(self) -> BinaryIO:
        try:
            self.destination.parent.mkdir(parents=True, exist_ok=True)
            return open(self.part, "ab")
        except OSError as error:
            raise self._cannot_write(error) from None

    def run(self, file: BinaryIO) -> None:
        """Transfers what is missing, checks the whole and gives it its name."""
        start = time.monotonic()
        self.say(f"downloading {self.url} to {self.destination}")
        self._complete(file)
        digest = digests.digest_of(self.part)
        if self.sha256 and not digest.startswith(self.sha256):
            self._forget(file)
            raise self._failure(
                f"its SHA-256 begins with {digest[:8]} instead of {self.sha256[:8]}", "try again"
            )
        self.version.unlink(missing_ok=True)
        os.replace(self.part, self.destination)
        digests.record(self.destination, digest)
        self.say(f"{self.destination.name} is complete after {time.monotonic() - start:.0f} s")

    def leave_nothing_empty(self) -> None:
        """Deletes a partial file that there is nothing to resume in."""
        if self.part.exists() and self.part.stat().st_size == 0:
            self.part.unlink()

    def _complete(self, file: BinaryIO) -> None:
        furthest = 0
        while True:
            before = self._resumable_bytes(file)
            reason = "the connection was closed"
            try:
                total = self._transfer(file, before)
                if total is None or file.tell() == total:
                    return
            except urllib.error.HTTPError as error:
                if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not before:
                    said = f"the server says {error.code} {error.reason}"
                    raise self._failure(said, "check the address") from None
                self._forget(file)  # The file there has become shorter than our part.
                continue
            except urllib.error.URLError as error:
                reason = f"there is no connection ({error.reason})"
                raise self._failure(reason, "check the network") from None
            except _BROKEN as error:
                reason = str(error) or type(error).__name__
            if file.tell() <= max(before, furthest):
                raise self._failure(
                    f"it broke off after {file.tell()} bytes ({reason})",
                    "run this again to go on from there",
                )
            furthest = file.tell()

    def _resumable_bytes(self, file: BinaryIO) -> int:
        # Without its version we cannot know that the rest would be of the same file.
        if not self.version.exists():
            file.truncate(0)
        return file.seek(0, os.SEEK_END)

    def _transfer(self, file: BinaryIO, have: int) -> int | None:
        """Appends what the server sends; the size that the file will have, if it says so."""
        headers = {"User-Agent": "vswin_jax", "Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": self.version.read_text()}
        request = urllib.request.Request(self.url, headers=headers)
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                self._forget(file)
            total = self._total(response, file.tell())
            self._keep_version(response.headers)
            meter = _Meter(self.destination.name, file.tell(), total, self.say)
            while chunk := response.read(_CHUNK):
                self._write(file, chunk)
                meter.at(file.tell())
        return total

    def _total(self, response: http.client.HTTPResponse, have: int) -> int | None:
        """The whole file's size in bytes, checked; None if the server does not say."""
        if response.headers.get_content_type() == "text/html":
            raise self._failure("a web page came instead of a checkpoint", "check the address")
        if have and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise self._failure(f"not the rest from byte {have} came", f"delete {self.part}")
        total = self.expected_size if response.length is None else have + response.length
        if self.expected_size is not None and total != self.expected_size:
            said = f"it has {total} bytes there instead of {self.expected_size}"
            raise self._failure(said, "check the address")
        return total

    def _keep_version(self, headers: http.client.HTTPMessage) -> None:
        # A weak tag (W/...) does not promise the same bytes.
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

    def _forget(self, file: BinaryIO) -> None:
        file.seek(0)
        file.truncate()
        self.version.unlink(missing_ok=True)

    def _failure(self, what: str, then: str) -> InputError:
        return InputError(
            f"{self.destination.name} could not be downloaded from {self.url}: {what}; {then}, or "
            f"put the file at {self.destination} by hand."
        )

    def _cannot_write(self, error: OSError) -> InputError:
        return InputError(
            f"{self.destination.name} from {self.url} cannot be written to "
            f"{self.destination.parent} ({error.strerror}): make room there, or set VSWIN_CACHE "
            f"to another directory."
        )


class _Meter:
    """Says now and then how far a transfer is."""

    def __init__(self, name: str, have: int, total: int | None, say: Say) -> None:
        self._name, self._have, self._total, self._say = name, have, total, say
        self._start = self._said = time.monotonic()

    def at(self, position: int) -> None:
        now = time.monotonic()
        if now - self._said < _SAY_EVERY:
            return
        self._said = now
        rate = (position - self._have) / max(now - self._start, 1e-9)
        line = f"{self._name}: {position / 1e6:.1f} MB at {rate / 1e6:.1f} MB/s"
        if self._total:
            left = (self._total - position) / rate
            line = f"{line}, {self._total / 1e6:.1f} MB in all, {left:.0f} s left"
        self._say(line)
