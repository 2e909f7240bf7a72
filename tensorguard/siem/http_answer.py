"""What a status of HTTP means for a batch, where the kind of sink has no codes of its own."""

from collections.abc import Collection, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Final

from tensorguard.siem.answer import Answer, Verdict, excerpt_of, parse_retry_after
from tensorguard.siem.http_client import HttpAnswer

_ENTRY_REFUSED: Final = frozenset({400, 422})
_LATER: Final = frozenset({408, 425, 429})


def judge_status(
    answer: HttpAnswer,
    now: datetime,
    *,
    secrets: Sequence[str] = (),
    accepted: Collection[int] = range(200, 300),
    stopping: Collection[int] = (),
) -> Answer:
    """Translate a status: 400 and 422 are about what was sent, 401 to 410 and 3xx about the sink.

    `stopping` are statuses of this kind of sink that need a person, whatever they mean elsewhere.
    """
    status = answer.status
    if status in accepted:
        verdict, reason = Verdict.ACCEPTED, "accepted"
    elif status in stopping:
        verdict, reason = Verdict.STOPPED, f"refused with {_name(status)}"
    elif status in _LATER or status >= 500 or status < 200:
        verdict, reason = Verdict.RETRY, f"answered {_name(status)}"
    elif status == 413:
        verdict, reason = Verdict.TOO_LARGE, "too large for the destination"
    elif status in _ENTRY_REFUSED:
        verdict, reason = Verdict.REFUSED, f"refused with {_name(status)}"
    elif 300 <= status < 400:
        verdict, reason = Verdict.STOPPED, f"answered with a redirect ({status}), not followed"
    else:
        verdict, reason = Verdict.STOPPED, f"refused with {_name(status)}"
    return Answer(
        verdict=verdict,
        code="accepted" if verdict is Verdict.ACCEPTED else f"http-{status}",
        reason=reason,
        status=status,
        excerpt=excerpt_of(answer.body, secrets),
        retry_after=parse_retry_after(answer.headers.get("retry-after"), now),
    )


def _name(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
