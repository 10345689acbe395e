"""Checks each request of a server, sets the headers of its answer, and writes a line about it."""

import ipaddress
import logging
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vswin_jax.inference.serving.serve_settings import ServeSettings
from vswin_jax.runtime.printable import printable

log = logging.getLogger(__name__)

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; media-src blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class RequestGuard:
    """Refuses requests that pages of other sites make, and writes a line about each request.

    A browser sends a request of a page with the page's origin, and with the host name that the page
    has for the server. A page of another site is refused by its origin; its name for this machine,
    which it may have registered (DNS rebinding), is refused as a host.
    """

    def __init__(
        self, app: ASGIApp, settings: ServeSettings, write_line: Callable[[str], None]
    ) -> None:
        self._app, self._settings, self._write_line = app, settings, write_line
        self._names = {"localhost", socket.gethostname().lower()}
        self._names |= {name.lower() for name in settings.allow_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        start, status = time.monotonic(), 499  # the client has left

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        reason = self._refusal(Headers(scope=scope))
        app = self._app if reason is None else JSONResponse({"error": reason}, 403)
        try:
            await app(scope, receive, send_with_headers)
        except Exception:
            # The client has got a 500.
            log.exception("error in a request")
        client = (scope.get("client") or ("?",))[0]
        path = printable(scope["path"])[:80]
        seconds = time.monotonic() - start
        self._write_line(f"{client} {scope['method']} {path} {status} {seconds:.2f} s")

    def _refusal(self, headers: Headers) -> str | None:
        """Return the reason to refuse a request, or None."""
        host = headers.get("host", "")
        name = _host_name(host)
        if "*" not in self._names and name not in self._names and not _is_address(name):
            return (
                f"The server does not know itself by the name {printable(name)[:80]!r}: use its "
                f"address, or start it with --allow-host NAME."
            )
        origin = headers.get("origin")
        if origin is None or origin in self._settings.allow_origins:
            return None
        if urlsplit(origin).netloc.lower() == host.lower():
            return None
        return (
            "The server answers no pages of other sites: open its own page, or start it with "
            "--allow-origin SITE."
        )


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
