"""Retry-After, excerpts of answers, and secrets of webhooks."""

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from standardwebhooks.webhooks import Webhook

from hub.sink_export import Pace
from tensorguard.siem.answer import excerpt_of, parse_retry_after
from tensorguard.siem.errors import BadSink
from tensorguard.siem.http_client import check_url
from tensorguard.siem.webhook import key_of, new_secret, sign

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("Wed, 04 Mar 2026 05:07:07 GMT", 60),
        ("Wed, 04 Mar 2020 05:07:07 GMT", 0),
        ("99999999999999999999", 3600),
        ("Wed, 04 Mar 2037 05:07:07 GMT", 3600),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_an_hour_at_most(value: str, seconds: int) -> None:
    assert parse_retry_after(value, NOW) == timedelta(seconds=seconds)


@pytest.mark.parametrize("value", [None, "", "soon", "-1", "1.5", "١٢", "Wed, 04 Mar 2026"])
def test_what_is_no_retry_after_asks_for_nothing(value: str | None) -> None:
    assert parse_retry_after(value, NOW) is None


def test_an_excerpt_is_short_printable_and_keeps_no_secret() -> None:
    said = excerpt_of(b"\x1b[31mno\r\n token s3cret-token!" + "é".encode() * 400, ["s3cret-token"])
    assert len(said.encode()) <= 256
    assert said.isprintable()
    assert "s3cret-token" not in said
    assert "[secret]" in said


def test_no_part_of_a_long_secret_is_left_at_the_end_of_an_excerpt() -> None:
    secret = "0123456789" * 50
    assert excerpt_of((secret * 9).encode(), [secret]) == "[secret]" * 9


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_AAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "whsec_" + "A" * 200]
)
def test_a_bad_secret_of_a_webhook_is_refused(secret: str) -> None:
    with pytest.raises(BadSink):
        key_of(secret)


def test_the_reference_implementation_signs_alike() -> None:
    secret = new_secret()
    theirs = Webhook(secret).sign("msg_1", NOW, '{"a":"é"}')
    assert sign(secret, "msg_1", str(int(NOW.timestamp())), '{"a":"é"}'.encode()) == theirs


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example",
        "https://",
        "https://a.example:0/",
        "https://u:p@a.example",
        "https://a.example/#f",
        "https://a b.example",
        "https://[::1",
        "file:///etc/passwd",
    ],
)
def test_only_plain_https_urls_are_taken(url: str) -> None:
    with pytest.raises(BadSink):
        check_url(url)


def test_waits_grow_with_failures_and_never_undercut_what_the_far_end_asks() -> None:
    pace, chance = Pace(), Random(7)
    waits = [pace.back_off(10, None, chance) for _ in range(300)]
    assert max(waits) <= pace.most
    assert min(waits) < pace.most / 10 < pace.most / 2 < max(waits)  # full jitter
    asked = timedelta(minutes=30)
    assert pace.back_off(1, asked, chance) == asked
