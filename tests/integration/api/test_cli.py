"""`tensorguard admin` and `tensorguard api run` as processes of their own."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api.context import open_context
from api.settings import ApiSettings
from tensorguard.cli.main import main
from tests.integration.api.clients import Api
from tests.integration.api.conftest import CHEAP
from tests.integration.api.devices import enroll, join_string
from tests.integration.api.process import environment, running_api
from tests.patience import PATIENCE_S

Admin = Callable[..., dict[str, Any]]


@pytest.fixture
def admin(
    platform: ApiSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Admin:
    """`tensorguard admin …`: what it prints, be it an answer or an error."""
    for name, value in environment(platform).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, given: str = "") -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["tensorguard", "admin", *arguments, "--json"])
        monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        answer: dict[str, Any] = json.loads(printed.err if ended.value.code else printed.out)
        assert ("error" in answer) is bool(ended.value.code)
        return answer

    return run


def test_a_key_made_on_the_command_line_opens_the_running_api(
    platform: ApiSettings, admin: Admin, tmp_path: Path
) -> None:
    made = admin("api-key", "create", "--name", "ci", "--role", "admin")
    with running_api(platform, tmp_path / "api.log") as (process, url):
        headers = {"Authorization": f"Bearer {made['key']}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
            assert client.get("/readyz").json() == {"status": "ok"}
            assert client.get("/api/v1/session").json()["role"] == "admin"
            assert "tg_api_request_seconds" in client.get("/metrics").text
            assert admin("api-key", "revoke", made["id"])["revoked"] is True
            assert client.get("/api/v1/session").status_code == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 0


def test_a_user_and_their_password_are_made_on_the_command_line(admin: Admin) -> None:
    email = f"{os.getpid()}@example.org"
    made = admin("user", "create", "--email", email, "--role", "viewer")
    assert len(made["password"]) >= 20
    again = admin("user", "create", "--email", email, "--role", "viewer")
    assert again["error"]["code"] == "user-exists"
    given = admin("reset-password", "--email", email, "--password-stdin", given="a long password\n")
    assert "password" not in given
    weak = admin("reset-password", "--email", email, "--password-stdin", given="short\n")
    assert weak["error"]["code"] == "weak-password"
    reset = admin("reset-second-factor", email)
    assert (reset["id"], reset["second_factor"]) == (made["id"], "none")
    unknown = admin("reset-second-factor", "nobody@example.org")
    assert unknown["error"]["code"] == "user-not-found"
    unknown = admin("reset-password", "--email", "nobody@example.org")
    assert unknown["error"]["code"] == "user-not-found"


def test_a_registered_publisher_is_in_the_next_trust_bundle(
    platform: ApiSettings, admin: Admin, tmp_path: Path
) -> None:
    public = Ed25519PrivateKey.generate().public_key()
    key = tmp_path / "publisher.pem"
    key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    arguments = ("publisher", "register", "--name", "acme", "--key", str(key), "--names", "*")
    made = admin(*arguments, "--root-keys", str(platform.data_dir))
    assert made["trust_version"] >= 2
    with psycopg.connect(platform.database_url.get_secret_value()) as connection:
        query = "SELECT encode(envelope, 'escape') FROM trust_bundles WHERE version = %s"
        assert connection.execute(query, (made["trust_version"],)).fetchone()
    again = admin(*arguments, "--root-keys", str(platform.data_dir))
    assert again["error"]["code"] == "publisher-exists"
    nowhere = admin(*arguments, "--root-keys", str(tmp_path))
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


async def _waiting_agents(platform: ApiSettings, count: int) -> list[str]:
    async with open_context(platform, hasher=CHEAP) as context, Api(context) as api:
        fleet = await api.new_fleet()
        join = await join_string(api, fleet, approval="manual", max_uses=count)
        return [await enroll(api, fleet, name=f"box-{n}", join=join) for n in range(count)]


def test_devices_that_wait_are_decided_about_on_the_command_line(
    platform: ApiSettings, admin: Admin
) -> None:
    first, second, third = asyncio.run(_waiting_agents(platform, 3))
    listed = [one["id"] for one in admin("agents", "pending")["agents"]]
    assert [one for one in listed if one in (first, second, third)] == [first, second, third]
    assert admin("agents", "approve", first, second)["decided"] == [first, second]
    rejected = admin("agents", "reject", third, "--reason", "not on the list")
    assert rejected == {"decided": [third], "failed": []}
    assert admin("agents", "release", third, "--reason", "it was")["released"] is True
    in_use = admin("agents", "release", first, "--reason", "by mistake")
    assert in_use["error"]["code"] == "agent-not-releasable"
    assert not {first, second, third} & {one["id"] for one in admin("agents", "pending")["agents"]}
