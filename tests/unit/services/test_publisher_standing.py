"""What a publisher's signature is worth: its life, and the names that it may sign."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tensorguard.services.trust.publisher_standing import (
    Standing,
    find_objection,
    find_objection_code,
    standing_of,
)
from tensorguard.store.publishers import Publisher

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def publisher(**changes: Any) -> Publisher:
    known: dict[str, Any] = {
        "kid": "ab" * 32,
        "name": "Model team",
        "alg": "ed25519",
        "public": bytes(32),
        "names": ["face-*", "voice"],
        "not_before": NOW - DAY,
        "not_after": NOW + DAY,
        "created_at": NOW - DAY,
        "created_by": "operator",
    }
    return Publisher(**(known | changes))


@pytest.mark.parametrize(
    ("at", "revoked", "standing"),
    [
        (NOW - DAY - timedelta(seconds=1), None, Standing.UPCOMING),
        (NOW - DAY, None, Standing.VALID),
        (NOW + DAY - timedelta(seconds=1), None, Standing.VALID),
        (NOW + DAY, None, Standing.EXPIRED),
        (NOW, NOW, Standing.REVOKED),
        (NOW + 2 * DAY, NOW, Standing.REVOKED),
    ],
)
def test_a_publisher_counts_from_its_first_moment_until_its_end(
    at: datetime, revoked: datetime | None, standing: Standing
) -> None:
    one = publisher()
    found = standing_of(
        not_before=one.not_before, not_after=one.not_after, revoked_at=revoked, now=at
    )
    assert found is standing


@pytest.mark.parametrize(
    ("changes", "package", "code", "words"),
    [
        ({}, "face-7", None, ""),
        ({}, "voice", None, ""),
        ({}, "voice-2", "publisher-not-allowed", "'voice-2'"),
        ({"not_after": NOW}, "voice", "publisher-expired", "until 2026-03-01 12:00 UTC"),
        ({"not_before": NOW + DAY}, "voice", "publisher-not-yet-valid", "from 2026-03-02"),
        (
            {"revoked_at": NOW, "revoked_reason": "key stolen"},
            "voice",
            "publisher-revoked",
            "stolen",
        ),
    ],
)
def test_an_objection_has_a_code_and_says_who_and_why(
    changes: dict[str, Any], package: str, code: str | None, words: str
) -> None:
    one = publisher(**changes)
    objection = find_objection(one, package, NOW)
    found = find_objection_code(
        not_before=one.not_before,
        not_after=one.not_after,
        revoked_at=one.revoked_at,
        names=one.names,
        package=package,
        now=NOW,
    )
    assert found == code
    if objection is None:
        assert code is None
    else:
        assert objection.code == code
        assert words in objection.message
        assert "'Model team'" in objection.message
