"""A maker of devices that knows OpenSSL's command line and nothing of ours."""

import hashlib
import secrets
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

NEVER: Final = "99991231235959Z"
"""When an IDevID ends (IEEE 802.1AR-2018 section 8.7, RFC 5280 section 4.1.2.5)."""
CA_END: Final = datetime(2060, 1, 1, tzinfo=UTC)
_BEGINNING: Final = datetime(2020, 1, 1, tzinfo=UTC)
_CA_PROFILE: Final = (
    "basicConstraints=critical,CA:TRUE",
    "keyUsage=critical,keyCertSign,cRLSign",
    "subjectKeyIdentifier=hash",
)
_PROFILE: Final = ("basicConstraints=CA:FALSE", "keyUsage=digitalSignature")
_CONFIG: Final = """
[ca]
default_ca = maker
[maker]
database = {folder}/index.txt
new_certs_dir = {folder}
certificate = {folder}/ca.pem
private_key = {folder}/ca.key
rand_serial = yes
unique_subject = no
default_md = sha256
policy = anything
[anything]
organizationName = optional
commonName = optional
serialNumber = optional
"""


def openssl(*arguments: str | Path) -> str:
    """Run the tool to its end; what it printed."""
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class MadeDevice:
    """A key and a certificate in files, as they leave the factory."""

    certificate_path: Path
    key_path: Path
    serial: str

    @property
    def pem(self) -> str:
        return self.certificate_path.read_text()

    @property
    def der(self) -> bytes:
        return subprocess.run(
            ["openssl", "x509", "-in", self.certificate_path, "-outform", "DER"],
            capture_output=True,
            check=True,
        ).stdout

    @property
    def client_id(self) -> str:
        return hashlib.sha256(self.der).hexdigest()

    @property
    def up(self) -> str:
        return f"tg/v1/_enroll/{self.client_id}/up/enroll"

    @property
    def down(self) -> str:
        return f"tg/v1/_enroll/{self.client_id}/down/enrolled"


class Manufacturer:
    """A CA, and whatever it may sign."""

    def __init__(
        self,
        folder: Path,
        *,
        key: tuple[str, ...] = ("EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
        extensions: tuple[str, ...] = _CA_PROFILE,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.certificate_path, self.key_path = folder / "ca.pem", folder / "ca.key"
        (folder / "index.txt").touch()
        openssl("genpkey", "-algorithm", *key, "-out", self.key_path)
        name = f"/O=Acme {secrets.token_hex(4)}/CN=Acme devices"
        self._sign(self.certificate_path, self.key_path, name, extensions, "-selfsign")

    @property
    def pem(self) -> str:
        return self.certificate_path.read_text()

    def device(
        self,
        serial: str | None = None,
        *,
        subject: str | None = None,
        key: tuple[str, ...] = ("EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
        key_of: MadeDevice | None = None,
        extensions: tuple[str, ...] = _PROFILE,
        start: datetime = _BEGINNING,
        end: datetime | None = None,
        digest: str = "sha256",
    ) -> MadeDevice:
        """Make a device; by default as 802.1AR asks for, valid for ever."""
        serial = secrets.token_hex(6) if serial is None else serial
        name = secrets.token_hex(6)
        certificate_path = self.folder / f"{name}.pem"
        key_path = key_of.key_path if key_of else self.folder / f"{name}.key"
        if key_of is None:
            openssl("genpkey", "-algorithm", *key, "-out", key_path)
        subject = subject or f"/O=Acme/CN=unit/serialNumber={serial}"
        until = NEVER if end is None else _asn1(end)
        more = ("-startdate", _asn1(start), "-enddate", until, "-md", digest)
        self._sign(certificate_path, key_path, subject, extensions, *more)
        return MadeDevice(certificate_path, key_path, serial)

    def proof(self, challenge: str) -> str:
        """What answers a challenge: a certificate with it as common name."""
        return self.device(subject=f"/CN={challenge}", end=CA_END).pem

    def _sign(
        self,
        path: Path,
        key_path: Path,
        subject: str,
        extensions: tuple[str, ...],
        *options: str,
    ) -> None:
        request, config = path.with_suffix(".csr"), path.with_suffix(".cnf")
        openssl("req", "-new", "-key", key_path, "-out", request, "-subj", subject)
        lines = _CONFIG.format(folder=self.folder), "[profile]", *extensions
        config.write_text("\n".join(lines) + "\n")
        if "-startdate" not in options:
            options += ("-startdate", _asn1(_BEGINNING), "-enddate", _asn1(CA_END))
        openssl(
            *("ca", "-batch", "-notext", "-config", config, "-extensions", "profile"),
            *options,
            *("-in", request, "-out", path),
        )


def _asn1(moment: datetime) -> str:
    return moment.strftime("%Y%m%d%H%M%SZ")
