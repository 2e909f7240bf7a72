"""Every error as an RFC 9457 problem; the only place that gives an error's code an HTTP status."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Protocol, runtime_checkable

import structlog
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tensorguard.pki.errors import BundleRefused, CsrRefused
from tensorguard.protocol.errors import EnvelopeRefused
from tensorguard.rollouts.errors import RolloutError
from tensorguard.services.errors import (
    Conflict,
    Denied,
    Invalid,
    NotFound,
    Unready,
)
from tensorguard.store.engine import store_error
from tensorguard.tgsp.errors import TgspError

log = structlog.get_logger()

MEDIA_TYPE: Final = "application/problem+json"
_REF_TEMPLATE: Final = "#/components/schemas/{model}"
PROBLEM_REF: Final = _REF_TEMPLATE.format(model="Problem")
STATUS: Final[Mapping[str, int]] = {
    # the request itself
    "bad-request": 400,
    "unauthenticated": 401,
    "bad-credentials": 401,
    "forbidden": 403,
    "foreign-origin": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "request-timed-out": 408,
    "answer-not-kept": 409,
    "revision-changed": 412,
    "body-too-large": 413,
    "unsupported-media-type": 415,
    "bad-cursor": 422,
    "validation-failed": 422,
    "idempotency-key-reused": 422,
    "revision-required": 428,
    "too-many-requests": 429,
    "internal-error": 500,
    "not-ready": 503,
    "overloaded": 503,
    # the database
    "store-error": 500,
    "database-unreachable": 503,
    "database-full": 503,
    # use cases: what their kind (below) says wrongly
    "enrollment-token-unknown": 401,
    "key-already-enrolled": 409,
    "enrollment-queue-full": 503,
    "bad-idempotency-key": 422,
    # libraries without kinds
    "bad-message": 422,
    "message-too-large": 413,
    "csr-too-large": 413,
    "bad-key": 422,
    "no-checkpoint": 404,
    "no-such-proof": 404,
    "illegal-move": 409,
    "package-too-large": 413,
    "package-store-full": 507,
    "package-store-unavailable": 503,
    "upload-lost": 409,
    # tus: https://tus.io/protocols/resumable-upload
    "tus-version": 412,
    "too-many-uploads": 429,
    "upload-busy": 423,
    "upload-too-long": 413,
    "upload-idle": 408,
    "checksum-mismatch": 460,
    # key providers
    "bad-key-reference": 422,
    "key-import-refused": 422,
    "not-supported": 422,
    "wrong-context": 409,
    "key-missing": 409,
    "key-disabled": 409,
    "key-pending-deletion": 409,
    "key-permission-denied": 409,
    "key-version-in-use": 409,
    "corrupted": 502,
    "key-provider-throttled": 503,
    "key-provider-unavailable": 503,
    "missing-extra": 503,
    "vault-error": 502,
}
_KINDS: Final[Sequence[tuple[type[Exception], int]]] = (
    (Invalid, 422),
    (NotFound, 404),
    (Conflict, 409),
    (Denied, 403),
    (Unready, 503),
    (CsrRefused, 422),
    (BundleRefused, 422),
    (EnvelopeRefused, 422),
    (TgspError, 422),
    (RolloutError, 422),
)
_TITLES: Final = {460: "Checksum Mismatch"}  # a status that only tus knows
_HTTP_CODES: Final = {
    400: "bad-request",
    404: "not-found",
    405: "method-not-allowed",
    413: "body-too-large",
}


@runtime_checkable
class ExplainedError(Protocol):
    """Every error of ours: a stable code, what is wrong, what to do."""

    code: str
    message: str
    hint: str


class FieldProblem(BaseModel):
    """One field that is not as the route asks for."""

    location: list[str | int]
    message: str
    type: str


class Problem(BaseModel):
    """RFC 9457 problem details, with the platform's stable `code` and a `hint` what to do."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str
    errors: list[FieldProblem] | None = None


def problem_schemas() -> dict[str, Any]:
    """Return what PROBLEM_REF points at, for the components of an OpenAPI document."""
    problem = Problem.model_json_schema(ref_template=_REF_TEMPLATE)
    return {**problem.pop("$defs"), "Problem": problem}


def problem_response(error: Exception) -> Response:
    """Return the answer to a request that ended with `error`; the program's faults are logged."""
    if isinstance(error, RequestValidationError):
        return _validation_failed(error)
    if isinstance(error, HTTPException) and isinstance(error.__cause__, ExplainedError):
        error = error.__cause__  # FastAPI wraps what reading the body raises
    if isinstance(error, HTTPException):
        return _http_error(error)
    status = status_of(error)
    if status is not None and isinstance(error, ExplainedError):
        return _explained(error, status)
    if (stored := store_error(error)) is not None:
        log.error("database_failed", code=stored.code, message=stored.message)
        return _explained(stored, STATUS[stored.code])
    log.error("request_failed", exc_info=error)
    return answer(
        "internal-error",
        "The request failed for a reason that the platform's log tells.",
        hint="Try again; if it stays, give the platform's operator the time of this request.",
    )


def status_of(error: Exception) -> int | None:
    """Return the HTTP status of one of our errors; None if it is not for the caller to see."""
    code = getattr(error, "code", None)
    if isinstance(code, str) and code in STATUS:
        return STATUS[code]
    return next((status for kind, status in _KINDS if isinstance(error, kind)), None)


def answer(
    code: str,
    detail: str,
    *,
    hint: str,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[FieldProblem] | None = None,
) -> Response:
    """Return a problem as a response."""
    status = STATUS[code] if status is None else status
    problem = Problem(
        type=f"/problems/{code}",
        title=_TITLES.get(status) or HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        hint=hint,
        errors=None if errors is None else list(errors),
    )
    # ASCII, because what is quoted of a request need not be valid Unicode.
    body = json.dumps(problem.model_dump(mode="python", exclude_none=True), ensure_ascii=True)
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def _explained(error: ExplainedError, status: int) -> Response:
    headers: dict[str, str] = {}
    if error.code == "unauthenticated":
        headers["WWW-Authenticate"] = "Bearer"
    if (retry_after_s := getattr(error, "retry_after_s", None)) is not None:
        headers["Retry-After"] = str(retry_after_s)
    return answer(error.code, error.message, hint=error.hint, status=status, headers=headers)


def _http_error(error: HTTPException) -> Response:
    code = _HTTP_CODES.get(error.status_code, "bad-request")
    return answer(
        code,
        str(error.detail),
        hint="The routes and their methods are listed in /api/openapi.json.",
        status=error.status_code,
        headers=error.headers,
    )


def _validation_failed(error: RequestValidationError) -> Response:
    # Neither `input` nor `ctx`: what was sent may be a password.
    errors = [
        FieldProblem.model_construct(
            location=list(one["loc"]), message=str(one["msg"]), type=str(one["type"])
        )
        for one in error.errors()[:20]
    ]
    first = errors[0]
    place = ".".join(str(part) for part in first.location)
    return answer(
        "validation-failed",
        f"{place}: {first.message}",
        hint="Correct the fields that `errors` lists.",
        errors=errors,
    )
