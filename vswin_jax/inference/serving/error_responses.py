"""The answers to requests that fail, each a sentence as JSON: {"error": ...}."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from vswin_jax.inference.serving.refused_request import RefusedRequest
from vswin_jax.runtime.printable import encodable

# The client has closed the connection; nginx counts these with the same number.
LEFT = 499


async def _refused(_: Request, error: Any) -> Response:
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return _sentence(error.status, error.sentence, headers)


async def _http_error(request: Request, error: Any) -> Response:
    sentence = f"{request.method} {request.url.path} is not served ({error.detail})."
    return _sentence(error.status_code, sentence, error.headers)


async def _left(_: Request, __: Any) -> Response:
    return Response(status_code=LEFT)


async def _failed(_: Request, __: Any) -> Response:
    return _sentence(500, "The server has failed; its log has the reason.")


def _sentence(status: int, sentence: str, headers: Any = None) -> Response:
    return JSONResponse({"error": encodable(sentence)}, status, headers)


HANDLERS: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
    RefusedRequest: _refused,
    HTTPException: _http_error,
    ClientDisconnect: _left,
    Exception: _failed,
}
