"""What a hostile or broken device sends to the real listener, by curl, openssl and bare sockets."""

import asyncio
import json
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from api.context import ApiContext
from api.serve import Listening
from tensorguard.pki.identity import AgentIdentity, identity_from_certificate
from tensorguard.protocol import codec
from tests.integration.api.clients import Api
from tests.integration.api.devices import join_string
from tests.integration.api.flood import Listener, parse
from tests.integration.enrollment.builders import Device
from tests.patience import PATIENCE_S

STRANGER = "spiffe://tensorguard.local/fleet/hospital-z/agent/01900000-0000-7000-8000-000000000000"


def _openssl(folder: Path, *arguments: str) -> str:
    """A request that openssl makes with a new key of its own."""
    command = ["openssl", "req", "-new", "-nodes", "-keyout", "k.pem", "-out", "r.pem", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return (folder / "r.pem").read_text()


def _ec(folder: Path, curve: str, *more: str) -> str:
    return _openssl(
        folder, "-newkey", "ec", "-pkeyopt", f"ec_paramgen_curve:{curve}", "-subj", "/CN=x", *more
    )


def _builder(common_name: str) -> str:
    """A request with a name that openssl's command refuses to write."""
    with warnings.catch_warnings(action="ignore"):  # that it is too long is the point
        name = x509.NameAttribute(NameOID.COMMON_NAME, common_name, _validate=False)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([name]))
    signed = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(Encoding.PEM).decode()


def _with_a_wrong_signature(folder: Path) -> str:
    """A good request, but for the last byte of its signature."""
    request = x509.load_pem_x509_csr(_ec(folder, "P-256").encode())
    der = bytearray(request.public_bytes(Encoding.DER))
    der[-1] ^= 1
    (folder / "bad.der").write_bytes(der)
    command = ["openssl", "req", "-inform", "DER", "-in", "bad.der", "-outform", "PEM"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


class Curl:
    """Enrols with curl, as a device of somebody else would."""

    def __init__(self, api: Api, port: int, folder: Path) -> None:
        self.api = api
        self.folder = folder
        self.url = f"https://127.0.0.1:{port}/device/v1/enroll"
        (folder / "ca.pem").write_text(api.context.keyring.ca.certificate_pem)

    async def body(self, **changes: Any) -> dict[str, Any]:
        join = await join_string(self.api, await self.api.new_fleet())
        fields: dict[str, Any] = json.loads(codec.encode(Device().request(join)))
        return fields | changes

    async def post(
        self, body: bytes, *more: str, kind: str = " application/json"
    ) -> tuple[int, dict[str, Any]]:
        """Return the status, and the answer's JSON."""
        (self.folder / "body").write_bytes(body)
        process = await asyncio.create_subprocess_exec(
            *("curl", "-s", "--noproxy", "*", "--max-time", "20", "-w", "\n%{http_code}"),
            *("--cacert", str(self.folder / "ca.pem"), "-H", f"Content-Type:{kind}"),
            *("--data-binary", f"@{self.folder / 'body'}", *more, self.url),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        answer, _, status = output.decode().rpartition("\n")
        return int(status), json.loads(answer)


@pytest.fixture
def curl(api: Api, listening: Listening, tmp_path: Path) -> Curl:
    return Curl(api, listening.device.port, tmp_path)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda d: _openssl(d, "-newkey", "rsa:512", "-subj", "/CN=x"), "csr-wrong-key"),
        (lambda d: _openssl(d, "-newkey", "rsa:2048", "-subj", "/CN=x"), "csr-wrong-key"),
        (lambda d: _openssl(d, "-newkey", "ed25519", "-subj", "/CN=x"), "csr-wrong-key"),
        (lambda d: _ec(d, "prime192v1"), "csr-wrong-key"),
        (lambda d: _ec(d, "secp224r1"), "csr-wrong-key"),
        (lambda d: _ec(d, "secp256k1"), "csr-wrong-key"),
        (lambda d: _ec(d, "secp384r1"), "csr-wrong-key"),
        (lambda d: _ec(d, "P-256", "-sha1"), "csr-bad-signature"),
        (_with_a_wrong_signature, "csr-bad-signature"),
        (lambda d: _ec(d, "P-256") * 2, "csr-malformed"),
        (lambda d: _ec(d, "P-256").replace("\n", "\0\n", 1), "csr-malformed"),
        (lambda d: _ec(d, "P-256").replace("REQUEST", "REQUEST\0"), "csr-malformed"),
        (lambda d: _ec(d, "P-256", "-x509"), "csr-malformed"),
        (lambda d: "A" * 9000, "csr-too-large"),
    ],
    ids=[
        *("rsa-512", "rsa-2048", "ed25519", "p-192", "p-224", "secp256k1", "p-384"),
        *("sha-1", "wrong signature", "two", "nul", "nul in the label", "certificate", "9000"),
    ],
)
async def test_a_bad_request_for_a_certificate_is_named_and_stores_nothing(
    curl: Curl, tmp_path: Path, make: Callable[[Path], str], code: str
) -> None:
    body = await curl.body(csr=make(tmp_path))
    before = await curl.api.dump("agents", "certificates", "enrollment_tokens")
    status, problem = await curl.post(json.dumps(body).encode())
    assert (problem["code"], status) == (code, 413 if code == "csr-too-large" else 422), problem
    assert problem["hint"]
    assert body["token"] not in json.dumps(problem)
    assert await curl.api.dump("agents", "certificates", "enrollment_tokens") == before


@pytest.mark.parametrize(
    "make",
    [
        lambda d: _ec(
            *(d, "P-256", "-addext", f"subjectAltName=URI:{STRANGER},DNS:broker,IP:127.0.0.1"),
            *("-addext", "basicConstraints=critical,CA:TRUE"),
            *("-addext", "keyUsage=keyCertSign,cRLSign"),
            *("-addext", "extendedKeyUsage=serverAuth,clientAuth"),
        ),
        lambda d: _builder("01900000-0000-7000-8000-000000000000"),
        lambda d: _builder("n" * 5000),
        lambda d: _builder("hub\0-1"),
        lambda d: _ec(d, "P-256", "-pkeyopt", "ec_param_enc:explicit"),
    ],
    ids=[
        *("extensions of a stranger and a CA", "another's name", "a long name", "nul in the name"),
        "a curve by its parameters",
    ],
)
async def test_a_certificate_takes_nothing_from_a_request_but_its_key(
    curl: Curl, tmp_path: Path, make: Callable[[Path], str]
) -> None:
    csr = make(tmp_path)
    status, answer = await curl.post(json.dumps(await curl.body(csr=csr)).encode())
    assert status == 201, answer
    leaf = x509.load_pem_x509_certificate(answer["certificate"].encode())
    assert leaf.public_key() == x509.load_pem_x509_csr(csr.encode()).public_key()
    identity = identity_from_certificate(leaf)
    assert isinstance(identity, AgentIdentity)
    assert (str(identity.agent_id), identity.fleet) == (answer["agent_id"], answer["fleet"])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [identity.uri]
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert [one.value for one in leaf.subject] == [answer["agent_id"]]
    dump = await curl.api.dump("certificates")
    assert STRANGER not in dump


async def test_a_key_that_is_written_in_another_way_is_the_same_key(
    curl: Curl, tmp_path: Path
) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "named.pem")
    openssl("ec", "-in", "named.pem", "-param_enc", "explicit", "-out", "explicit.pem")
    openssl("ec", "-in", "named.pem", "-conv_form", "compressed", "-out", "compressed.pem")
    found = []
    for key in ("named", "explicit", "compressed"):
        openssl("req", "-new", "-key", f"{key}.pem", "-subj", "/CN=x", "-out", "r.pem")
        body = await curl.body(csr=(tmp_path / "r.pem").read_text())
        found.append((await curl.post(json.dumps(body).encode()))[0])
    assert found == [201, 409, 409]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_megabyte_is_refused_before_it_is_read(curl: Curl, chunked: bool) -> None:
    body = json.dumps(await curl.body(csr="A" * 1_000_000)).encode()
    more = ("-H", "Transfer-Encoding: chunked") if chunked else ()
    status, problem = await curl.post(body, *more)
    assert (status, problem["code"]) == (413, "body-too-large")


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw + b"\0",
        lambda raw: b"\0" + raw,
        lambda raw: raw.replace(b'"name":"', b'"name":"\0'),
        lambda raw: raw.replace(b'"name":"', b'"name":"\\u0000'),
        lambda raw: raw.decode().encode("utf-16"),
    ],
)
async def test_a_body_that_is_no_json_text_without_nul_is_refused(
    curl: Curl, change: Callable[[bytes], bytes]
) -> None:
    raw = json.dumps(await curl.body(), separators=(",", ":")).encode()
    status, problem = await curl.post(change(raw))
    assert status == 422, problem


@pytest.mark.parametrize("kind", [" text/plain", "", " application/x-www-form-urlencoded"])
async def test_a_body_of_another_kind_is_refused(curl: Curl, kind: str) -> None:
    status, problem = await curl.post(json.dumps(await curl.body()).encode(), kind=kind)
    assert (status, problem["code"]) == (415, "unsupported-media-type")


# Framing: one connection, and nobody may see two requests where there is one.

_SMUGGLED = b"GET /device/v1/ca HTTP/1.1\r\nHost: x\r\n\r\n"
_HEAD = b"POST /device/v1/enroll HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "said",
    [
        _HEAD + b"Content-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _SMUGGLED,
        _HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n" + _SMUGGLED,
        _HEAD + b"Content-Length: 0\r\nContent-Length: 40\r\n\r\n" + _SMUGGLED,
        _HEAD + b"Content-Length: 0, 40\r\n\r\n" + _SMUGGLED,
        _HEAD + b"Content-Length: +0\r\n\r\n" + _SMUGGLED,
        _HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + _SMUGGLED,
        _HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + _SMUGGLED,
        _HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + _SMUGGLED,
        _HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n" + _SMUGGLED,
        _HEAD + b"X: a\0b\r\nContent-Length: 0\r\n\r\n" + _SMUGGLED,
        b"POST /device/v1/enroll HTTP/1.1\r\nContent-Length: 0\r\n\r\n" + _SMUGGLED,
        b"POST http://x/device/v1/enroll\r\n\r\n" + _SMUGGLED,
    ],
)
async def test_a_request_whose_end_is_in_doubt_ends_the_connection(
    context: ApiContext, listening: Listening, said: bytes
) -> None:
    listener = Listener(listening.device.port, context.keyring.ca.certificate_pem)
    answer = await listener.exchange(said)
    assert 400 <= parse(answer).status < 502, answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"BEGIN CERTIFICATE" not in answer
