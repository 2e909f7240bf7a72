"""Answers for browsers: a built file, or the page whose router knows every other path."""

from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from api.problems import answer
from api.ui.assets import INDEX, Asset

# Nothing inline, nothing from elsewhere, and no text that becomes markup: Vue's own templates are
# the only source of HTML (its policy is named `vue`; `default` lets the empty text pass).
CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types vue default",
    )
)
_PERMISSIONS_POLICY: Final = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"
_PROGRAMS: Final = ("/api/", "/device/")
_NOT_BUILT: Final = (
    "The user interface is not part of this installation.\n"
    "The API is at /api/v1; `make setup` builds the interface.\n"
)


class Ui:
    """An ASGI application for every path that no route of the api has taken."""

    def __init__(self, assets: Mapping[str, Asset]) -> None:
        self._assets = assets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000, "reason": ""})
            return
        request = Request(scope, receive)
        response = self._respond(request, scope["path"])
        await response(scope, receive, send)

    def _respond(self, request: Request, path: str) -> Response:
        if path.startswith(_PROGRAMS):
            return _not_found(path)
        if request.method not in ("GET", "HEAD"):
            return answer(
                "method-not-allowed",
                "Pages are only read.",
                hint="The API is at /api/v1.",
                headers={"Allow": "GET, HEAD"},
            )
        asset = self._assets.get(path)
        if asset is not None:
            return _file(request, asset)
        if path != "/" and not _wants_page(request):
            return _not_found(path)
        if INDEX not in self._assets:
            return PlainTextResponse(_NOT_BUILT, status_code=404)
        return _file(request, self._assets[INDEX])


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _not_found(path: str) -> Response:
    return answer(
        "not-found",
        f"There is nothing at {path[:200]!r}.",
        hint="The routes and their methods are listed in /api/openapi.json.",
    )


def _file(request: Request, asset: Asset) -> Response:
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable"
        if asset.is_immutable
        else "no-cache",
        "ETag": asset.etag,
        "Vary": "Accept-Encoding",
    }
    if asset.path == INDEX:
        headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        headers["Permissions-Policy"] = _PERMISSIONS_POLICY
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    body = asset.body
    if asset.gzipped is not None and "gzip" in request.headers.get("accept-encoding", ""):
        body = asset.gzipped
        headers["Content-Encoding"] = "gzip"
    if request.method == "HEAD":
        headers["Content-Length"] = str(len(body))
        body = b""
    return Response(body, headers=headers, media_type=asset.media_type)
