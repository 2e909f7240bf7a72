"""Lines of a NATS server's log, as 2.15.1 writes them."""

from uuid import UUID

import pytest

from broker.nats.log import Denial, FailedHandshake, read_line

AGENT = "01a20682-1062-7eb1-ba4a-f96c1212521f"
HEAD = "[30147] 2026/11/23 03:45:16.930748 [ERR] 127.0.0.1:34960 - mid:12 - "


def read(rest: str) -> object:
    return read_line((HEAD + rest).encode())


@pytest.mark.parametrize(
    ("subject", "topic"),
    [
        ("tg.v1.hospital-a.x.up.csr", "tg/v1/hospital-a/x/up/csr"),
        ("$SYS.broker.uptime", "$SYS/broker/uptime"),
        ("/.tg.v1", "/tg/v1"),
        ("a//b", "a.b"),
        ("a./.b", "a//b"),
    ],
)
def test_a_denied_publish_is_read_with_its_topic(subject: str, topic: str) -> None:
    found = read(f'"{AGENT}" - Publish Violation - Subject "{subject}"')
    assert found == Denial(12, UUID(AGENT), "publish", topic)


@pytest.mark.parametrize(
    ("subject", "topic"), [("tg.>", "tg/#"), (">", "#"), ("*", "+"), ("tg.*.x", "tg/+/x")]
)
def test_a_denied_subscribe_is_read_with_its_filter(subject: str, topic: str) -> None:
    found = read(f'"{AGENT}" - Subscription Violation - Subject "{subject}", SID 3')
    assert found == Denial(12, UUID(AGENT), "subscribe", topic)


def test_a_retained_message_that_was_not_stored_is_read() -> None:
    found = read(
        f'"{AGENT}" - unable to store retained message for account "AGENTS", '
        'subject "tg.v1.f.x.up.event": message size exceeds maximum allowed (10054)'
    )
    assert found == Denial(12, UUID(AGENT), "retain", "tg/v1/f/x/up/event")


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("tls: client didn't provide a certificate", "no-certificate"),
        (
            "tls: failed to verify certificate: x509: certificate has expired or is not yet valid:"
            " current time 2026-11-23T03:39:36Z is after 2026-11-22T03:39:36Z (CN=x)",
            "expired",
        ),
        (
            "tls: failed to verify certificate: x509: certificate has expired or is not yet valid:"
            " current time 2026-11-23T03:39:37Z is before 2026-11-24T03:34:37Z (CN=x)",
            "not-yet-valid",
        ),
        (
            "tls: failed to verify certificate: x509: certificate signed by unknown authority",
            "untrusted-certificate",
        ),
        (
            "tls: failed to verify certificate: x509: certificate specifies an incompatible key"
            " usage",
            "wrong-purpose",
        ),
        ("tls: client offered only unsupported versions: [302 301]", "tls-version"),
        ("EOF", "handshake-aborted"),
    ],
)
def test_a_failed_handshake_has_a_reason_of_a_closed_list(why: str, reason: str) -> None:
    assert read(f"TLS handshake error: {why}") == FailedHandshake(reason)


@pytest.mark.parametrize(
    "rest",
    [
        "",
        '"not an agent" - Publish Violation - Subject "a"',
        rf'"x\" - Publish Violation - Subject \"a" - "{AGENT}" - authentication error',
        f'"{AGENT}" - authentication error',
        f'"{AGENT}\\n" - Publish Violation - Subject "a"',
        f'"{AGENT}" - Publish Violation - Subject "a" and more',
    ],
)
def test_a_client_writes_no_line_of_another(rest: str) -> None:
    assert read(rest) is None


def test_other_lines_tell_nothing() -> None:
    for line in (b"", b"\xff\xfe", b"[1] 2026/11/23 03:45:16.1 [INF] Server is ready", b"x" * 99):
        assert read_line(line) is None
