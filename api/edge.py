"""Around every request: security headers, one line in the log, one measurement."""

import time
from collections.abc import Mapping
from typing import Final

import structlog
from prometheus_client import Histogram
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import answer

log = structlog.get_logger()

REQUESTS: Final = Histogram(
    "tg_api_request_seconds",
    "Time from a request's head to the end of its answer.",
    ["listener", "method", "route", "status"],
)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
}


class Edge:
    """The outermost layer of a listener. Logs the route's template, never the URL: it may hold a
    secret in its query string."""

    def __init__(self, app: ASGIApp, *, listener: str, hsts: bool) -> None:
        self._app = app
        self._listener = listener
        self._headers = dict(SECURITY_HEADERS)
        if hsts:
            self._headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            if _is_ambiguous(scope):
                await _ambiguous()(scope, receive, send_guarded)
            else:
                await self._app(scope, receive, send_guarded)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, took_s: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        REQUESTS.labels(self._listener, method, route, status).observe(took_s)
        log.info(
            "request_served",
            listener=self._listener,
            method=method,
            route=route,
            status=status,
            took_ms=round(took_s * 1000, 1),
        )


def _is_ambiguous(scope: Scope) -> bool:
    """Tell whether a proxy may see another end of the body than we do (RFC 9112 section 6.3)."""
    names = {name for name, _ in scope["headers"]}
    return {b"content-length", b"transfer-encoding"} <= names


def _ambiguous() -> Response:
    return answer(
        "bad-request",
        "the request has both a Content-Length and a Transfer-Encoding",
        hint="Send one of the two.",
        headers={"Connection": "close"},
    )
