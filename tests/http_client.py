"""Requests to a server of this machine, with all of their bytes in the test's hands."""

import http.client
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

_PATIENCE = 120.0  # seconds


@dataclass(frozen=True)
class Answer:
    """The answer to a request."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence of an answer that has nothing else."""
        content = self.json
        assert list(content) == ["error"], content
        return content["error"]


def connect(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_PATIENCE)


def ask(
    url: str,
    method: str = "GET",
    body: bytes | Iterable[bytes] | None = None,
    **headers: str,
) -> Answer:
    """Send a request; a body in parts is sent without its length. `_` in a header stands for -."""
    parts = urlsplit(url)
    connection = connect(url)
    try:
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path or "/"
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, names)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def post(url: str, body: bytes | Iterable[bytes], **headers: str) -> Answer:
    return ask(url, "POST", body, **headers)


def form(content: bytes, file_name: str = "clip.mp4", field: str = "video") -> tuple[bytes, str]:
    """Return the body of a form with another field and a file, and its content type."""
    boundary = uuid.uuid4().hex
    head = f'Content-Disposition: form-data; name="{field}"; filename="{file_name}"'
    parts = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="note"\r\n\r\n--not read--\r\n',
        f"--{boundary}\r\n{head}\r\nContent-Type: video/mp4\r\n\r\n",
        f"\r\n--{boundary}--\r\n",
    )
    first, second, last = (part.encode() for part in parts)
    return first + second + content + last, f"multipart/form-data; boundary={boundary}"


def post_form(
    url: str, content: bytes, file_name: str = "clip.mp4", field: str = "video"
) -> Answer:
    body, content_type = form(content, file_name, field)
    return post(url, body, Content_Type=content_type)
