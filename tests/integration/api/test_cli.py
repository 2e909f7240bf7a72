"""`tensorguard admin` and `tensorguard api run` as processes of their own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api.settings import ApiSettings


def _environment(platform: ApiSettings) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TG_")}
    return ours | {
        "TG_DATABASE_URL": platform.database_url.get_secret_value(),
        "TG_DATA_DIR": str(platform.data_dir),
        "TG_HTTP": "127.0.0.1:0",
        "TG_DEVICE": "127.0.0.1:0",
    }


def _admin(platform: ApiSettings, *arguments: str, given: str = "") -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tensorguard.cli", "admin", *arguments, "--json"],
        env=_environment(platform),
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    answer = json.loads(done.stdout if done.returncode == 0 else done.stderr)
    assert (done.returncode == 0) is ("error" not in answer)
    return dict(answer)


@contextmanager
def _running_api(platform: ApiSettings) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process once it says that it is ready, and the people's URL."""
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorguard.cli", "api", "run"],
        env=_environment(platform) | {"TG_READY_FD": str(write_end)},
        pass_fds=(write_end,),
        stderr=subprocess.PIPE,
    )
    os.close(write_end)
    try:
        assert os.read(read_end, 100) == b"ready\n"
        assert process.stderr is not None
        for line in process.stderr:
            record = json.loads(line)
            if record["event"] == "api_ready":
                break
        yield process, f"http://{record['people']}"
    finally:
        os.close(read_end)
        process.kill()
        process.communicate(timeout=10)


def test_a_key_made_on_the_command_line_opens_the_running_api(platform: ApiSettings) -> None:
    made = _admin(platform, "api-key", "create", "--name", "ci", "--role", "admin")
    with _running_api(platform) as (process, url):
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
        env=_environment(platform) | {name: value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"[{code}]" in done.stderr
    assert "Traceback" not in done.stderr
