"""mosquitto with mTLS, as a broker that nobody here wrote."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tensorguard.pki.identity import ServiceIdentity
from tensorguard.pki.issuer import CA_LIFETIME, CertificateAuthority, certificate_pem
from tensorguard.services.certificates.certificates import ServiceCertificate

TRUST_DOMAIN = "example.org"


def find_mosquitto() -> str | None:
    """The server's path; it lies where only root's PATH leads."""
    return shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/opt/homebrew/sbin")


class Mosquitto:
    """A broker that can be stopped and started again on its port, remembering nothing."""

    def __init__(self, folder: Path, binary: str, *settings: str) -> None:
        self._binary, self._folder = binary, folder
        now = datetime.now(UTC)
        self.ca = CertificateAuthority.create(TRUST_DOMAIN, now, CA_LIFETIME)
        self._ca_path = folder / "ca.pem"
        self._ca_path.write_text(self.ca.certificate_pem)
        self._write_certificate("broker")
        self._write_certificate("publisher")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"cafile {self._ca_path}",
            f"certfile {folder}/broker.crt",
            f"keyfile {folder}/broker.key",
            "require_certificate true",
            "use_identity_as_username true",
            "max_queued_messages 0",
            "user root",
            *settings,
        ]
        (folder / "mosquitto.conf").write_text("\n".join(lines))
        self._process: subprocess.Popen[bytes] | None = None

    def _write_certificate(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.ca.issue_service(
            key.public_key(),
            ServiceIdentity(TRUST_DOMAIN, name),
            datetime.now(UTC),
            timedelta(days=1),
            dns_names=[],
            ip_addresses=[IPv4Address("127.0.0.1")],
        )
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self._folder / f"{name}.key").write_bytes(pem)
        (self._folder / f"{name}.crt").write_text(certificate_pem(certificate))

    def hub_certificate(self) -> ServiceCertificate:
        return ServiceCertificate(self.ca, ServiceIdentity(TRUST_DOMAIN, "hub"))

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._binary, "-c", str(self._folder / "mosquitto.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        waiting = threading.Event()
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            waiting.wait(0.02)
        raise AssertionError("mosquitto does not listen")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    async def publish(self, topic: str, *payloads: str) -> None:
        """Publish lines with mosquitto_pub at QoS 1, each in order."""
        command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(self.port), "-t", topic, "-q", "1"]
        command += ["--cafile", str(self._ca_path), "--cert", f"{self._folder}/publisher.crt"]
        command += ["--key", f"{self._folder}/publisher.key", "-l"]
        process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE)
        await process.communicate("".join(f"{payload}\n" for payload in payloads).encode())
        assert process.returncode == 0
