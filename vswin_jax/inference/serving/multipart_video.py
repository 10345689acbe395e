"""Finds the video in the body of a form (multipart/form-data) while the body arrives."""

from collections.abc import Callable
from typing import BinaryIO

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from vswin_jax.inference.serving.refused_request import RefusedRequest

FIELD = "video"
_ADVICE = f"send the file as curl -F {FIELD}=@clip.mp4 does, or as the body alone"


class MultipartVideo:
    """Writes the file of the field `video` to `file`, and discards all other fields.

    Attributes:
      file_name: that of the client, or "".

    Raises:
      RefusedRequest: the content type has no boundary between the parts.
    """

    def __init__(self, content_type: str, file: BinaryIO) -> None:
        self.file_name = ""
        self._file, self._is_video, self._num_videos, self._has_ended = file, False, 0, False
        self._name, self._value, self._disposition = bytearray(), bytearray(), b""
        callbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": _add_to(self._name),
            "on_header_value": _add_to(self._value),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._write_part,
            "on_end": self._end,
        }
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise _bad_form("it has no boundary between its parts")
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise _bad_form(str(error)) from error

    def write(self, data: bytes) -> None:
        """Read the next bytes of the body.

        Raises:
          RefusedRequest: they are no form, or have a second video.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _bad_form(str(error)) from error

    def finish(self) -> None:
        """End the body.

        Raises:
          RefusedRequest: it ends too early, or has no video.
        """
        if not self._has_ended:
            raise _bad_form("it ends before its last part does")
        if not self._num_videos:
            raise _bad_form(f"it has no field {FIELD!r}")

    def _begin_part(self) -> None:
        self._is_video, self._disposition = False, b""

    def _end_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._is_video = options.get(b"name") == FIELD.encode()
        if self._is_video:
            self._num_videos += 1
            self.file_name = options.get(b"filename", b"").decode("utf-8", "replace")
        if self._num_videos > 1:
            raise _bad_form(f"it has the field {FIELD!r} twice")

    def _write_part(self, data: bytes, start: int, end: int) -> None:
        if self._is_video:
            self._file.write(memoryview(data)[start:end])

    def _end(self) -> None:
        self._has_ended = True


def _add_to(target: bytearray) -> Callable[[bytes, int, int], None]:
    def add(data: bytes, start: int, end: int) -> None:
        target.extend(data[start:end])

    return add


def _bad_form(reason: str) -> RefusedRequest:
    return RefusedRequest(400, f"The form cannot be read ({reason}): {_ADVICE}.")
