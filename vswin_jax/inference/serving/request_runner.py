"""Runs the job of a request: a place, the upload, a decoding process, and limits of time."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from vswin_jax.data.pipeline.clip_processes import ClipProcesses
from vswin_jax.data.pipeline.process_limits import TooSlowError
from vswin_jax.errors import InputError
from vswin_jax.inference.serving.decoder_queue import DecoderQueue
from vswin_jax.inference.serving.receive_upload import received_upload
from vswin_jax.inference.serving.refused_request import RefusedRequest
from vswin_jax.inference.serving.serve_settings import ServeSettings
from vswin_jax.inference.serving.uploaded_video import UploadedVideo

Result = TypeVar("Result")

_RETRY_SECONDS = 5


class RequestRunner:
    """The places of a server; a request has one from the start of its upload to its result.

    Attributes:
      num_requests: the places that are taken.
    """

    def __init__(self, queue: DecoderQueue, settings: ServeSettings, directory: str) -> None:
        """Run jobs in `queue`; uploads are stored in `directory` while they are in use."""
        self._queue, self._settings, self._directory = queue, settings, directory
        self.num_requests = 0

    async def run(
        self, request: Request, name: str, job: Callable[[UploadedVideo, ClipProcesses], Result]
    ) -> Result:
        """Receive the video of a request, called `name`, and return `job(video, decoder)`.

        Raises:
          RefusedRequest: there is no place, or the video is too large, unreadable or slow.
          ClientDisconnect: the client has left.
        """
        upload = received_upload(request, self._directory, self._settings.max_bytes, name)
        with self._place():
            async with upload as video:
                return await self._result(request, video.name, partial(job, video))

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        most = self._settings.max_requests
        if self.num_requests >= most:
            sentence = f"The server is busy with {most} requests: try again later."
            raise RefusedRequest(503, sentence, _RETRY_SECONDS)
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1

    async def _result(
        self, request: Request, name: str, job: Callable[[ClipProcesses], Result]
    ) -> Result:
        work = asyncio.ensure_future(self._queue.run(partial(_result_or_error, job)))
        left = asyncio.ensure_future(_wait_until_left(request))
        timeout = self._settings.timeout
        try:
            await asyncio.wait({work, left}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return _checked(work.result())
            if left.done():
                raise ClientDisconnect
            raise RefusedRequest(
                504,
                f"{name!r} took more than {timeout:g} seconds, because it is long or the server "
                f"is busy: send a shorter video, or try again later.",
                _RETRY_SECONDS,
            )
        finally:
            work.cancel()
            left.cancel()
            await asyncio.gather(work, left, return_exceptions=True)


def _result_or_error(
    job: Callable[[ClipProcesses], Result], decoder: ClipProcesses
) -> Result | InputError:
    try:
        return job(decoder)
    except InputError as error:
        # The frames of its traceback have the clips, which the futures of a raised error would keep
        # until the garbage collector finds them.
        return type(error)(str(error))


def _checked(result: Result | InputError) -> Result:
    if isinstance(result, InputError):
        raise RefusedRequest(504 if isinstance(result, TooSlowError) else 422, str(result))
    return result


async def _wait_until_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
