"""Download links: an HMAC over package, agent and expiry, so that a link serves one agent only."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from uuid import UUID

from tensorguard.services.deployments.release_errors import DownloadExpired, DownloadRefused

_LABEL = b"tensorguard/package-url/v1\0"


def format_url(key: bytes, digest: bytes, agent_id: UUID, expires_at: datetime) -> str:
    """Return the link, relative to the device URL, good for this agent until `expires_at`."""
    exp = int(expires_at.timestamp())
    sig = _signature(key, digest, agent_id, exp)
    return f"/device/v1/packages/{digest.hex()}?agent={agent_id}&exp={exp}&sig={sig}"


def check_url(
    key: bytes, *, digest: bytes, agent_id: UUID, exp: int, sig: str, now: datetime
) -> None:
    """Accept the parts of a link that `format_url` made.

    Raises: DownloadRefused, DownloadExpired.
    """
    expected = _signature(key, digest, agent_id, exp)
    if not hmac.compare_digest(expected.encode(), sig.encode()):
        raise DownloadRefused("the link's signature is not right")
    if now.timestamp() >= exp:
        ended = datetime.fromtimestamp(exp, UTC).isoformat()
        raise DownloadExpired(f"the link was good until {ended}")


def _signature(key: bytes, digest: bytes, agent_id: UUID, exp: int) -> str:
    # Fixed lengths in front, so that no two triples have the same bytes.
    message = _LABEL + digest + agent_id.bytes + str(exp).encode()
    mac = hmac.digest(key, message, hashlib.sha256)
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
