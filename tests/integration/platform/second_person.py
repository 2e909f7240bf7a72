"""A second person: a browser session with an authenticator app, on somebody else's account."""

import base64
import hashlib
import hmac
import secrets
import struct
import time
from typing import Any

import httpx

from tests.integration.platform.running import RunningPlatform, run_json
from tests.patience import PATIENCE_S

Json = dict[str, Any]


class SecondPerson:
    """An account made on the machine itself, signed in and stepped up."""

    def __init__(self, platform: RunningPlatform) -> None:
        email = f"{secrets.token_hex(6)}@example.org"
        made = run_json(
            *("admin", "user", "create", "--email", email, "--name", "Second", "--role", "admin"),
            *("--data-dir", str(platform.data)),
        )
        self._http = httpx.Client(
            base_url=f"{platform.url}/api/v1",
            headers={"Origin": platform.url},
            trust_env=False,
            timeout=PATIENCE_S,
        )
        password = made["password"]
        self._post("/session", email=email, password=password)
        secret = self._post("/session/second-factor", password=password)["secret"]
        self._post("/session/second-factor/confirm", code=_code(secret))

    def approve(self, approval_id: str) -> Json:
        """Say yes; what became of it."""
        return self._post(f"/approvals/{approval_id}/approve")

    def _post(self, path: str, **body: Any) -> Json:
        answer = self._http.post(path, json=body)
        assert answer.is_success, f"{path}: {answer.text}"
        found: Json = answer.json()
        return found


def _code(secret: str) -> str:
    """What an app shows now (RFC 6238), by the RFC and not by the platform's own code."""
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    digest = hmac.new(key, struct.pack(">Q", int(time.time()) // 30), hashlib.sha1).digest()
    start = digest[-1] & 0x0F
    number = struct.unpack(">I", digest[start : start + 4])[0] & 0x7FFFFFFF
    return f"{number % 10**6:06d}"
