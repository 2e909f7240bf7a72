"""Joining: what is sent to whom, what is believed, and what a lost answer costs."""

import json
import ssl
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from agent.core.state import AgentState
from agent.errors import (
    AgentError,
    AlreadyEnrolled,
    BadAnswer,
    EnrollmentNotApproved,
    EnrollmentRefused,
    NotTheServer,
    PinMismatch,
    PlatformBusy,
    StateNotWritable,
    Unreachable,
)
from agent.runtime.enroll import Waiting, enroll
from agent.runtime.https import request, verified_context
from agent.runtime.service import read_credentials, read_trust
from agent.runtime.statedir import StateDir
from tensorguard.protocol.join import Join, format_join
from tensorguard.protocol.messages import Enrolled
from tests.integration.agent import platform as platforms
from tests.integration.agent.platform import TOKEN, Platform, free_port
from tests.unit.agent.builders import Signers


def paths(platform: Platform) -> list[str]:
    return [f"{one.method} {one.path}" for one in platform.requests]


def token_was_sent(platform: Platform) -> bool:
    return any(TOKEN.encode() in one.body or TOKEN in one.path for one in platform.requests)


def test_a_device_joins_and_holds_everything_it_needs(device_api: Platform) -> None:
    directory = StateDir(device_api.folder / "device")
    joined = enroll(device_api.join, directory, "device")
    assert paths(device_api) == ["GET /device/v1/ca", "POST /device/v1/enroll"]
    assert device_api.requests[0].body == b""
    assert read_credentials(directory).identity == joined.identity
    assert read_trust(directory).version == 1
    state = directory.get_state()
    assert isinstance(state, AgentState)
    assert state.heartbeat_interval_s == device_api.interval_s
    assert directory.get_home().mqtt_host == "localhost"


def test_everything_in_the_state_directory_is_for_its_user_only(device_api: Platform) -> None:
    directory = StateDir(device_api.folder / "device")
    enroll(device_api.join, directory, "device")
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    for path in directory.path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


def test_a_wrong_pin_sends_no_token_and_stores_no_identity(device_api: Platform) -> None:
    join = msgspec.structs.replace(device_api.join, ca="0" * 64)
    directory = StateDir(device_api.folder / "device")
    with pytest.raises(PinMismatch):
        enroll(join, directory, "device")
    assert paths(device_api) == ["GET /device/v1/ca"]
    assert not token_was_sent(device_api)
    assert not directory.is_enrolled


def test_a_server_that_shows_the_right_ca_but_is_not_under_it_gets_no_token(
    tmp_path: Path,
) -> None:
    """Whoever copies the public CA certificate has not its key; made by openssl, not by us."""
    real = platforms.new_platform(tmp_path)
    openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    openssl += ["-nodes", "-days", "1", "-subj", "/CN=localhost"]
    openssl += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "k.pem", "-out", "c.pem"]
    subprocess.run(openssl, cwd=tmp_path, check=True, capture_output=True)
    pem = tmp_path / "forged.pem"
    pem.write_bytes((tmp_path / "k.pem").read_bytes() + (tmp_path / "c.pem").read_bytes())
    with platforms.running_device_api(real, pem), pytest.raises(NotTheServer):
        enroll(real.join, StateDir(tmp_path / "device"), "device")
    assert paths(real) == ["GET /device/v1/ca"]
    assert not token_was_sent(real)


def test_a_certificate_for_another_host_gets_no_token(device_api: Platform) -> None:
    # 127.0.0.2 answers too, but stands in no certificate.
    other = Join(
        url=f"https://127.0.0.2:{device_api.device_port}", ca=device_api.join.ca, token=TOKEN
    )
    server = ThreadingHTTPServer(("127.0.0.2", 0), _CaOnly)
    _CaOnly.ca = device_api.signers.ca.certificate_pem.encode()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(device_api.folder / "api.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    other = msgspec.structs.replace(other, url=f"https://127.0.0.2:{server.server_address[1]}")
    try:
        with pytest.raises(NotTheServer):
            enroll(other, StateDir(device_api.folder / "device"), "device")
    finally:
        server.shutdown()
        server.server_close()
    assert _CaOnly.posts == 0


class _CaOnly(BaseHTTPRequestHandler):
    ca = b""
    posts = 0

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.ca)))
        self.end_headers()
        self.wfile.write(self.ca)

    def do_POST(self) -> None:
        type(self).posts += 1

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_device_whose_clock_is_behind_judges_certificates_by_agent_time(tmp_path: Path) -> None:
    """For OpenSSL's clock a certificate of tomorrow is what one of today is for a clock in 1970."""
    platform = platforms.new_platform(tmp_path)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    pem = platforms.issue_service(platform.signers, "api", tmp_path / "api.pem", begin=tomorrow)
    ca = [platform.signers.ca.certificate_pem]
    with platforms.running_device_api(platform, pem):
        with pytest.raises(NotTheServer):
            request(verified_context(ca), platform.url, "/device/v1/ca")
        behind = verified_context(ca, clock_is_behind=True)
        found = request(behind, platform.url, "/device/v1/ca", agent_time=tomorrow)
        assert found.status == 200
        much_later = tomorrow + timedelta(days=30)
        with pytest.raises(NotTheServer):
            request(behind, platform.url, "/device/v1/ca", agent_time=much_later)
        stranger = verified_context([Signers().ca.certificate_pem], clock_is_behind=True)
        with pytest.raises(NotTheServer):
            request(stranger, platform.url, "/device/v1/ca", agent_time=tomorrow)


def test_a_lost_answer_costs_nothing(device_api: Platform) -> None:
    directory = StateDir(device_api.folder / "device")
    device_api.drop_answers = 1
    with pytest.raises(Unreachable):
        enroll(device_api.join, directory, "device")
    assert not directory.is_enrolled
    joined = enroll(device_api.join, directory, "device")
    assert len(device_api.enrolled) == 1, "the same keys were sent again"
    assert joined.identity.agent_id == next(iter(device_api.enrolled.values())).agent_id


def test_an_approval_is_waited_for_by_asking_again(device_api: Platform) -> None:
    device_api.pending = 2
    slept: list[float] = []
    said: list[str] = []
    waiting = Waiting(sleep=slept.append, uniform=lambda: 0.5, say=said.append)
    enroll(device_api.join, StateDir(device_api.folder / "device"), "device", waiting)
    assert slept == [1.05, 1.05]
    assert "waits for an operator's approval. You may stop this command" in said[0]
    assert "asking again in 1 s" in said[1]
    bodies = {json.loads(one.body)["encryption_key"] for one in device_api.requests if one.body}
    assert len(bodies) == 1


def test_an_approval_that_does_not_come_says_so(device_api: Platform) -> None:
    device_api.pending = 1
    with pytest.raises(EnrollmentNotApproved):
        enroll(device_api.join, StateDir(device_api.folder / "device"), "device", Waiting(most_s=0))


def test_a_platform_that_is_busy_or_gone_while_an_operator_decides_is_asked_again(
    device_api: Platform,
) -> None:
    device_api.pending = 1
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        device_api.drop_answers = 1 if len(slept) == 1 else 0
        device_api.refuse = (503, "overloaded") if len(slept) == 2 else None

    waiting = Waiting(sleep=sleep, uniform=lambda: 0.5)
    enroll(device_api.join, StateDir(device_api.folder / "device"), "device", waiting)
    # The second wait is the first of its back-off; the third adds what the platform asked for.
    assert slept == [1.05, 5.0, 7.0 + 10.0]


def test_a_platform_that_stays_busy_is_named_with_what_to_do(device_api: Platform) -> None:
    device_api.refuse = (503, "overloaded")
    with pytest.raises(PlatformBusy) as caught:
        enroll(device_api.join, StateDir(device_api.folder / "device"), "device", Waiting(most_s=0))
    assert "same command again" in caught.value.hint


def test_whoever_does_not_wait_continues_with_the_same_keys(device_api: Platform) -> None:
    device_api.pending = 1
    state = str(device_api.folder / "device")
    command = ("agent", "enroll", format_join(device_api.join), "--state-dir", state, "--no-wait")
    code, report = run_cli(*command)
    assert (code, report["error"]["code"]) == (1, "enrollment-pending")
    assert "same command again" in report["error"]["hint"]
    code, report = run_cli(*command)
    assert code == 0, report
    asked = [json.loads(one.body) for one in device_api.requests if one.body]
    assert len({(one["encryption_key"], one["token"]) for one in asked}) == 1
    assert len(asked) == 2


def test_a_directory_belongs_to_one_agent(device_api: Platform) -> None:
    directory = StateDir(device_api.folder / "device")
    enroll(device_api.join, directory, "device")
    with pytest.raises(AlreadyEnrolled):
        enroll(device_api.join, directory, "device")
    assert len(device_api.enrolled) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda a, s: msgspec.structs.replace(a, agent_id=uuid4()),
        lambda a, s: msgspec.structs.replace(a, fleet="hospital-b"),
        lambda a, s: msgspec.structs.replace(a, certificate="-----BEGIN CERTIFICATE-----"),
        lambda a, s: msgspec.structs.replace(a, trust=msgspec.json.decode(Signers().bundle())),
        lambda a, s: msgspec.structs.replace(a, trust={}),
        lambda a, s: msgspec.structs.replace(a, config=a.trust),
        lambda a, s: msgspec.structs.replace(a, certificate=s.ca.certificate_pem),
    ],
    ids=["agent id", "fleet", "certificate", "other root", "no trust", "no config", "CA as leaf"],
)
def test_an_answer_that_does_not_hold_together_is_not_stored(
    device_api: Platform, change: Any
) -> None:
    def spoil(answer: Enrolled) -> Enrolled:
        changed = change(answer, device_api.signers)
        assert isinstance(changed, Enrolled)
        return changed

    device_api.spoil = spoil
    directory = StateDir(device_api.folder / "device")
    with pytest.raises(BadAnswer):
        enroll(device_api.join, directory, "device")
    assert not directory.is_enrolled
    device_api.spoil = lambda answer: answer
    enroll(device_api.join, directory, "device")


@pytest.mark.parametrize("kind", ["token-expired", "token-exhausted", "enrollment-token-revoked"])
def test_a_refusal_says_why_and_what_to_do(device_api: Platform, kind: str) -> None:
    device_api.refuse = (403, kind)
    with pytest.raises(EnrollmentRefused) as caught:
        enroll(device_api.join, StateDir(device_api.folder / "device"), "device")
    assert kind in caught.value.message
    assert "Mint a new enrollment token" in caught.value.hint
    assert TOKEN not in caught.value.message


def run_cli(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tensorguard.cli", *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, json.loads(done.stdout or done.stderr)


def test_the_command_line_enrols_and_shows_the_agent(device_api: Platform) -> None:
    state = str(device_api.folder / "device")
    code, report = run_cli(
        "agent", "enroll", format_join(device_api.join), "--state-dir", state, "--name", "edge-1"
    )
    assert code == 0
    assert report["fleet"] == "hospital-a"
    code, shown = run_cli("agent", "status", "--state-dir", state)
    assert (code, shown["agent_id"], shown["name"]) == (0, report["agent_id"], "edge-1")


def test_an_unreachable_platform_is_named(tmp_path: Path) -> None:
    join = Join(url=f"https://127.0.0.1:{free_port()}", ca="0" * 64, token="t")
    code, report = run_cli("agent", "enroll", format_join(join), "--state-dir", str(tmp_path / "d"))
    assert code == 1
    assert report["error"]["code"] == "platform-unreachable"


def test_a_damaged_join_string_is_explained(tmp_path: Path) -> None:
    code, report = run_cli("agent", "enroll", "tg1.abc", "--state-dir", str(tmp_path / "d"))
    assert (code, report["error"]["code"]) == (1, "bad-join-string")


def test_a_directory_that_cannot_be_made_is_explained(device_api: Platform) -> None:
    file = device_api.folder / "a-file"
    file.write_text("")
    with pytest.raises(StateNotWritable) as caught:
        enroll(device_api.join, StateDir(file / "device"), "device")
    assert isinstance(caught.value, AgentError)
    assert "--state-dir" in caught.value.hint
    assert device_api.requests == []
