"""Both listeners on real sockets, seen by foreign programs: curl and openssl."""

import asyncio
import dataclasses
import json
import logging
import socket
import ssl
from pathlib import Path

import httpx
import pytest
import structlog
from cryptography import x509
from pydantic import SecretStr

from api import connection
from api.context import ApiContext
from api.serve import CannotListen, Listening, serving
from api.settings import ApiSettings, BadSettings, ListenAddress, load_settings
from tensorguard.pki.identity import spki_sha256
from tensorguard.protocol import codec
from tensorguard.protocol.join import parse_join
from tests.integration.api.clients import Api
from tests.integration.api.devices import join_string
from tests.integration.enrollment.builders import Device
from tests.patience import PATIENCE_S


async def _run(*command: str, given: bytes = b"") -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE_S):
        output, _ = await process.communicate(given)
    return process.returncode or 0, output.decode(errors="replace")


async def test_a_device_joins_with_curl_exactly_as_the_protocol_says(
    api: Api, listening: Listening, tmp_path: Path
) -> None:
    base = f"https://127.0.0.1:{listening.device.port}/device/v1"
    join = await join_string(api, await api.new_fleet())
    ca_file, body = tmp_path / "ca.pem", tmp_path / "request.json"
    status, output = await _run("curl", "-sk", "--noproxy", "*", "-o", str(ca_file), f"{base}/ca")
    assert status == 0, output
    ca = x509.load_pem_x509_certificate(ca_file.read_bytes())
    assert spki_sha256(ca) == parse_join(join).ca
    body.write_bytes(codec.encode(Device().request(join)))
    status, output = await _run(
        "curl", "-s", "--noproxy", "*", "--cacert", str(ca_file),
        "-H", "Content-Type: application/json", "--data-binary", f"@{body}", f"{base}/enroll",
    )  # fmt: skip
    assert status == 0, output
    assert json.loads(output)["status"] == "active"


async def test_the_device_listener_is_refused_by_whoever_does_not_trust_the_ca(
    listening: Listening,
) -> None:
    url = f"https://127.0.0.1:{listening.device.port}/device/v1/ca"
    status, _ = await _run("curl", "-s", "--noproxy", "*", url)
    assert status == 60  # the peer's certificate cannot be authenticated


async def test_the_device_listener_answers_no_plain_http(listening: Listening) -> None:
    url = f"http://127.0.0.1:{listening.device.port}/device/v1/ca"
    status, output = await _run("curl", "-s", "--noproxy", "*", "-m", "5", url)
    assert status != 0
    assert "BEGIN" not in output


@pytest.mark.parametrize(
    ("version", "works"), [("-tls1_2", True), ("-tls1_3", True), ("-tls1_1", False)]
)
async def test_the_device_listener_speaks_tls_1_2_and_newer_only(
    listening: Listening, version: str, works: bool
) -> None:
    status, output = await _run(
        "openssl", "s_client", version, "-cipher", "ALL:@SECLEVEL=0", "-brief",
        "-connect", f"127.0.0.1:{listening.device.port}",
    )  # fmt: skip
    assert ("CONNECTION ESTABLISHED" in output) is works, output
    assert (status == 0) is works


async def test_people_do_not_reach_device_routes_nor_devices_the_peoples(
    context: ApiContext, listening: Listening
) -> None:
    tls = ssl.create_default_context(cadata=context.keyring.ca.certificate_pem)
    async with httpx.AsyncClient(verify=tls, trust_env=False) as client:
        people = f"http://127.0.0.1:{listening.people.port}"
        device = f"https://127.0.0.1:{listening.device.port}"
        assert (await client.get(f"{people}/healthz")).status_code == 200
        assert (await client.get(f"{people}/readyz")).status_code == 200
        assert (await client.get(f"{people}/device/v1/ca")).status_code == 404
        assert (await client.get(f"{device}/device/v1/ca")).status_code == 200
        assert (await client.get(f"{device}/api/v1/fleets")).status_code == 404
        assert (await client.get(f"{device}/api/openapi.json")).status_code == 404


async def test_a_query_string_and_a_secret_are_never_logged(
    listening: Listening, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "s3cr3t-of-a-download"
    people = f"http://127.0.0.1:{listening.people.port}"
    with structlog.testing.capture_logs() as records:
        async with httpx.AsyncClient(trust_env=False) as client:
            for path in ("/healthz", f"/no-such/{secret}", "/api/v1/fleets"):
                await client.get(
                    f"{people}{path}?sig={secret}",
                    headers={"Authorization": f"Bearer tg_{secret}", "Cookie": f"tg={secret}"},
                )
    assert len([one for one in records if one["event"] == "request_served"]) == 3
    printed = capsys.readouterr()
    ours = [one.getMessage() for one in caplog.records if not one.name.startswith("http")]
    assert secret not in str(records) + str(ours) + printed.out + printed.err


async def test_a_connection_that_says_nothing_or_half_a_head_is_ended(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_WITHIN_S", 0.2)
    for said in (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", listening.people.port)
        writer.write(said)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", listening.people.port)
    for _ in range(2):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            assert b"200 OK" in await reader.readuntil(b'{"status":"ok"}')
    writer.write(b"GET /heal")
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_an_endless_head_is_cut_off(listening: Listening) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", listening.people.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 40_000)
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400")
    writer.close()


async def test_a_taken_address_is_named(context: ApiContext) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = context.settings.model_copy(update={"http": ListenAddress("127.0.0.1", port)})
        with pytest.raises(CannotListen, match=f"127.0.0.1:{port}"):
            async with serving(dataclasses.replace(context, settings=settings)):
                pytest.fail("it listened on an address that is taken")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "TG_DATABASE_URL"),
        ({"TG_HTTP": "0.0.0.0:80"}, "unencrypted"),
        ({"TG_HTTP": "8080"}, "HOST:PORT"),
        ({"TG_TLS_CERT": "/c"}, "belong together"),
    ],
)
def test_settings_that_cannot_work_are_refused_without_quoting_secrets(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TG_DATABASE_URL", "TG_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    if environment:
        monkeypatch.setenv("TG_DATABASE_URL", "postgresql://tg_app:hunter2@/x")
        monkeypatch.setenv("TG_DATA_DIR", "/x")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings, match=message) as refused:
        load_settings()
    assert "hunter2" not in refused.value.message


def test_settings_do_not_show_the_database_password(platform: ApiSettings) -> None:
    settings = ApiSettings(
        database_url=SecretStr("postgresql://tg_app:hunter2@/x"), data_dir=platform.data_dir
    )
    assert "hunter2" not in repr(settings)
