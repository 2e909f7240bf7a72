"""`tensorguard admin` and `tensorguard api run` as processes of their own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api.settings import ApiSettings
from tests.integration.api.process import environment, running_api


def _admin(platform: ApiSettings, *arguments: str, given: str = "") -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tensorguard.cli", "admin", *arguments, "--json"],
        env=environment(platform),
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    answer = json.loads(done.stdout if done.returncode == 0 else done.stderr)
    assert (done.returncode == 0) is ("error" not in answer)
    return dict(answer)


def test_a_key_made_on_the_command_line_opens_the_running_api(
    platform: ApiSettings, tmp_path: Path
) -> None:
    made = _admin(platform, "api-key", "create", "--name", "ci", "--role", "admin")
    with running_api(platform, tmp_path / "api.log") as (process, url):
        headers = {"Authorization": f"Bearer {made['key']}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
            assert client.get("/readyz").json() == {"status": "ok"}
            assert client.get("/api/v1/session").json()["role"] == "admin"
            assert "tg_api_request_seconds" in client.get("/metrics").text
            assert _admin(platform, "api-key", "revoke", made["id"])["revoked"] is True
            assert client.get("/api/v1/session").status_code == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def test_a_user_and_their_password_are_made_on_the_command_line(platform: ApiSettings) -> None:
    email = f"{os.getpid()}@example.org"
    made = _admin(platform, "user", "create", "--email", email, "--role", "viewer")
    assert len(made["password"]) >= 20
    again = _admin(platform, "user", "create", "--email", email, "--role", "viewer")
    assert again["error"]["code"] == "user-exists"
    given = _admin(
        platform, "reset-password", "--email", email, "--password-stdin", given="a long password\n"
    )
    assert "password" not in given
    weak = _admin(platform, "reset-password", "--email", email, "--password-stdin", given="short\n")
    assert weak["error"]["code"] == "weak-password"
    unknown = _admin(platform, "reset-password", "--email", "nobody@example.org")
    assert unknown["error"]["code"] == "user-not-found"


def test_a_registered_publisher_is_in_the_next_trust_bundle(
    platform: ApiSettings, tmp_path: Path
) -> None:
    public = Ed25519PrivateKey.generate().public_key()
    key = tmp_path / "publisher.pem"
    key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    arguments = ("publisher", "register", "--name", "acme", "--key", str(key), "--names", "*")
    made = _admin(platform, *arguments, "--root-keys", str(platform.data_dir))
    assert made["trust_version"] >= 2
    with psycopg.connect(platform.database_url.get_secret_value()) as connection:
        query = "SELECT encode(envelope, 'escape') FROM trust_bundles WHERE version = %s"
        assert connection.execute(query, (made["trust_version"],)).fetchone()
    again = _admin(platform, *arguments, "--root-keys", str(platform.data_dir))
    assert again["error"]["code"] == "publisher-exists"
    nowhere = _admin(platform, *arguments, "--root-keys", str(tmp_path))
    assert nowhere["error"]["code"] == "root-keys-unusable"


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("TG_HTTP", "0.0.0.0:0", "bad-settings"),
        (
            "TG_DATABASE_URL",
            "postgresql://tg_app@/tensorguard?host=/nowhere",
            "database-unreachable",
        ),
        ("TG_DATA_DIR", "/nowhere", "key-missing"),
    ],
)
def test_an_api_that_cannot_run_says_why_and_what_to_do(
    platform: ApiSettings, name: str, value: str, code: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tensorguard.cli", "api", "run"],
        env=environment(platform) | {name: value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"[{code}]" in done.stderr
    assert "Traceback" not in done.stderr
