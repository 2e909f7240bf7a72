"""One-time codes are those of RFC 6238, which every authenticator app shows."""

import base64
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from tensorguard.services.people.totp import compute_code, provisioning_uri, secret_text, step_at

# RFC 6238 appendix B, the rows of SHA-1. Its codes have 8 digits: a shorter code is the last ones,
# because a code is a number modulo 10^digits (RFC 4226 section 5.3).
SECRET = b"12345678901234567890"
VECTORS = [
    (59, "94287082"),
    (1111111109, "07081804"),
    (1111111111, "14050471"),
    (1234567890, "89005924"),
    (2000000000, "69279037"),
    (20000000000, "65353130"),
]


@pytest.mark.parametrize(("seconds", "eight_digits"), VECTORS)
def test_the_codes_are_those_of_the_rfc(seconds: int, eight_digits: str) -> None:
    moment = datetime.fromtimestamp(seconds, UTC)
    assert compute_code(SECRET, step_at(moment)) == eight_digits[-6:]


# RFC 4226 appendix D: the counter is the time step.
HOTP_VECTORS = (
    *("755224", "287082", "359152", "969429", "338314"),
    *("254676", "287922", "162583", "399871", "520489"),
)


@pytest.mark.parametrize("step", range(len(HOTP_VECTORS)))
def test_the_codes_are_those_of_the_hotp_rfc(step: int) -> None:
    assert compute_code(SECRET, step) == HOTP_VECTORS[step]


def test_apps_read_the_secret_from_the_uri_and_from_the_text() -> None:
    uri = urlsplit(provisioning_uri(SECRET, "ada@example.org"))
    assert (uri.scheme, uri.netloc, uri.path) == (
        "otpauth",
        "totp",
        "/TensorGuard:ada%40example.org",
    )
    fields = {name: value for name, (value,) in parse_qs(uri.query).items()}
    assert base64.b32decode(fields["secret"]) == base64.b32decode(secret_text(SECRET)) == SECRET
    assert fields["issuer"] == "TensorGuard"
    # Apps assume these where they are left out.
    assert (fields["digits"], fields["algorithm"], fields["period"]) == ("6", "SHA1", "30")
