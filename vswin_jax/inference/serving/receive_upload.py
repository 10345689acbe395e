"""Receives the video of a request into a file with a name of the server's own."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from typing import BinaryIO

from starlette.requests import Request

from vswin_jax.data.decoding.untrusted_file import UntrustedFile
from vswin_jax.inference.serving.multipart_video import MultipartVideo
from vswin_jax.inference.serving.refused_request import RefusedRequest
from vswin_jax.inference.serving.uploaded_video import UploadedVideo, display_name
from vswin_jax.runtime.disk_full import disk_full_reason

# Of the longest pause, and of the whole upload.
_PAUSE_SECONDS, _UPLOAD_SECONDS = 30.0, 900.0
# Written at a time, in a thread.
_CHUNK = 1 << 20


@contextlib.asynccontextmanager
async def received_upload(
    request: Request, directory: str, max_bytes: int, name: str
) -> AsyncIterator[UploadedVideo]:
    """Store the video of a request in `directory` during the block.

    It is the body, or the field `video` of a form. `name` is used if the form has none.

    Raises:
      RefusedRequest: the body is empty, too large, too slow, or a form without a video.
    """
    _check_stated_size(request, max_bytes)
    with contextlib.ExitStack() as stack:
        # Without a suffix, by which FFmpeg would choose some formats.
        file = stack.enter_context(tempfile.NamedTemporaryFile(dir=directory, prefix=""))
        try:
            own_name = await _receive(request, file, max_bytes)
            file.flush()
        except OSError as error:
            raise _disk_error(error) from error
        if not os.fstat(file.fileno()).st_size:
            raise RefusedRequest(400, "Expected a video but an empty file came: send another one.")
        yield UploadedVideo(UntrustedFile(file.name), display_name(own_name or name))


async def _receive(request: Request, file: BinaryIO, max_bytes: int) -> str:
    """Write the video to `file` and return the name that a form gives it, or ""."""
    content_type = request.headers.get("content-type", "")
    is_form = content_type.partition(";")[0].strip().lower() == "multipart/form-data"
    form = MultipartVideo(content_type, file) if is_form else None
    write = form.write if form else file.write
    waiting, received = bytearray(), 0
    async for data in _timed(request.stream()):
        received += len(data)
        if received > max_bytes:
            raise _too_large(max_bytes)
        waiting += data
        # The last one is empty.
        if len(waiting) >= _CHUNK or not data:
            await asyncio.to_thread(write, bytes(waiting))
            waiting.clear()
    if form is None:
        return ""
    form.finish()
    return form.file_name


async def _timed(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the parts of a body.

    Raises:
      RefusedRequest: they take too long.
    """
    now = asyncio.get_running_loop().time
    end = now() + _UPLOAD_SECONDS
    while True:
        try:
            async with asyncio.timeout_at(min(end, now() + _PAUSE_SECONDS)):
                data = await anext(stream, None)
        except TimeoutError:
            raise RefusedRequest(
                408,
                f"The upload has stopped for {_PAUSE_SECONDS:g} seconds, or has taken "
                f"{_UPLOAD_SECONDS:g} in all: send a smaller video.",
            ) from None
        if data is None:
            return
        yield data


def _check_stated_size(request: Request, max_bytes: int) -> None:
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> RefusedRequest:
    return RefusedRequest(
        413,
        f"Expected a video of at most {max_bytes / 1e6:g} MB but this one is larger: send a "
        f"shorter or smaller one.",
    )


def _disk_error(error: OSError) -> RefusedRequest:
    reason = disk_full_reason(error)
    if reason is None:
        raise error
    return RefusedRequest(507, f"The server has no room for the video ({reason}): try again later.")
