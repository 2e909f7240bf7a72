"""What can be wrong with a request before any use case sees it."""


class ApiError(Exception):
    """A request that the api itself refuses; problems.py gives each code its HTTP status."""

    code = "api-error"
    hint = "Compare the request with /api/openapi.json."
    retry_after_s: int | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class Unauthenticated(ApiError):
    """No proof of who is asking, or one that is not (any longer) good."""

    code = "unauthenticated"
    hint = "Sign in at POST /api/v1/session, or send 'Authorization: Bearer tg_…'."


class Forbidden(ApiError):
    """The caller's role lacks the permission that the route names."""

    code = "forbidden"
    hint = "Ask an administrator for a role that has this permission."


class ForeignOrigin(ApiError):
    """A browser sent the session cookie from another site's page."""

    code = "foreign-origin"
    hint = "Send the request from the platform's own pages, or use an API key."


class BadCursor(ApiError):
    """A page's cursor was not made by this route."""

    code = "bad-cursor"
    hint = "Use next_cursor of the page before, unchanged, or leave it out to start over."


class BodyTooLarge(ApiError):
    """The request's body exceeds the route's limit."""

    code = "body-too-large"
    hint = "Send less in one request."


class UnsupportedMediaType(ApiError):
    """The body is not of the type that the route reads."""

    code = "unsupported-media-type"
    hint = "Send JSON with 'Content-Type: application/json'."


class RequestTimedOut(ApiError):
    """The body did not arrive, or the answer was not ready, within the route's time."""

    code = "request-timed-out"
    hint = "Try again; if it happens often, look at the database's load."


class TooManyRequests(ApiError):
    """Too many attempts; `retry_after_s` says when the next one counts."""

    code = "too-many-requests"
    hint = "Wait as long as the Retry-After header says."

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(ApiError):
    """As much of this is under way as the process takes at a time."""

    code = "overloaded"
    hint = "Try again after as long as the Retry-After header says, and a random while longer."

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RevisionRequired(ApiError):
    """An update without If-Match could overwrite what somebody else has just changed."""

    code = "revision-required"
    hint = "Send the ETag of what you have read in the If-Match header."


class RevisionChanged(ApiError):
    """Somebody has changed it since it was read."""

    code = "revision-changed"
    hint = "Read it again, and repeat the change if it still makes sense."


class IdempotencyKeyReused(ApiError):
    """The Idempotency-Key was used for another request."""

    code = "idempotency-key-reused"
    hint = "Use a new key for each new request."


class AnswerNotKept(ApiError):
    """The same request was already done, but its answer held a secret and was not stored."""

    code = "answer-not-kept"
    hint = (
        "The first request took effect. Revoke what it made and create a new one, with a new key."
    )


class NotReady(ApiError):
    """The process cannot serve now."""

    code = "not-ready"
    hint = "Look at the service's log."


class BadCredentials(ApiError):
    """Sign-in failed; whether the address or the password was wrong is nobody's business."""

    code = "bad-credentials"
    hint = "Check both; 'tensorguard admin reset-password' sets a new password."
