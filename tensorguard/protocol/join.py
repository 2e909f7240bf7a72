"""The join string: what a device needs to find the platform and to know it is the right one."""

import base64
import re
from urllib.parse import urlsplit

import msgspec

from tensorguard.protocol.errors import BadJoinString

PREFIX = "tg1."
MAX_LENGTH = 4096


class Join(msgspec.Struct, frozen=True):
    """Device URL (https), hex SHA-256 of the platform CA's SPKI, and the enrollment token."""

    url: str
    ca: str
    token: str

    def __repr__(self) -> str:
        return f"Join(url={self.url!r}, ca={self.ca!r}, token=<hidden>)"


def format_join(join: Join) -> str:
    """Return `tg1.` + unpadded base64url of the JSON."""
    return PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(join)).rstrip(b"=").decode()


def parse_join(text: str) -> Join:
    """Take a join string apart.

    Raises: BadJoinString, which never quotes the string: it holds a secret.
    """
    text = text.strip()
    if not text.startswith(PREFIX) or len(text) > MAX_LENGTH:
        raise BadJoinString("a join string starts with 'tg1.' and has at most 4096 characters")
    body = text.removeprefix(PREFIX)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", body):
        raise BadJoinString("the join string has characters that do not belong there")
    try:
        join = msgspec.json.decode(
            base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=Join
        )
    except (msgspec.MsgspecError, ValueError):
        raise BadJoinString("the join string is damaged or cut off") from None
    if not _is_plain_https(join.url):
        raise BadJoinString("the join string's device URL is not a plain https:// URL")
    if not re.fullmatch(r"[0-9a-f]{64}", join.ca) or not re.fullmatch(r"[!-~]+", join.token):
        raise BadJoinString("the join string lacks the CA's fingerprint or the token")
    return join


def _is_plain_https(text: str) -> bool:
    # urlsplit drops tabs and newlines in silence, and raises for brackets and ports.
    if not re.fullmatch(r"[!-~]+", text):
        return False
    try:
        url = urlsplit(text)
        well_formed = url.scheme == "https" and bool(url.hostname) and url.port != 0
    except ValueError:
        return False
    return well_formed and "@" not in url.netloc and not url.query and not url.fragment
