"""A device written by someone else: joins by what docs/protocol.md says, speaks through paho."""

import base64
import hashlib
import json
import queue
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import paho.mqtt.client as paho
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion

from tests.patience import PATIENCE_S

Json = dict[str, Any]


def read_join(join: str) -> Json:
    """Take a join string apart."""
    body = join.removeprefix("tg1.")
    parts: Json = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return parts


def write_join(parts: Json) -> str:
    """Put a join string together, also one that no platform would mint."""
    body = base64.urlsafe_b64encode(json.dumps(parts).encode()).rstrip(b"=").decode()
    return f"tg1.{body}"


def fetch_ca(url: str) -> str:
    """The platform's CA, over a connection that proves nothing."""
    with httpx.Client(verify=False, trust_env=False) as http:
        return http.get(f"{url}/device/v1/ca").raise_for_status().text


class Device:
    """Keys and, once it has joined, a certificate: as files for foreign programs."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.key_path = directory / "device.key"
        self.certificate_path = directory / "device.pem"
        self.ca_path = directory / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._encryption_key = X25519PrivateKey.generate()
        self.key_path.write_bytes(
            self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        self.boot_id, self.boot_count = uuid4(), 1
        self.agent_id = ""
        self.fleet = ""
        self.device_url = ""
        self.mqtt_host = ""
        self.mqtt_port = 0

    def enroll(self, join: str, *, name: str = "foreign") -> httpx.Response:
        """Ask to join; the answer is taken over when it is yes."""
        parts = read_join(join)
        self.device_url = parts["url"]
        self.ca_path.write_text(fetch_ca(self.device_url))
        assert _spki_sha256(self.ca_path.read_bytes()) == parts["ca"]
        body = {
            "token": parts["token"],
            "csr": self._csr(),
            "encryption_key": base64.b64encode(
                self._encryption_key.public_key().public_bytes_raw()
            ).decode(),
            "name": name,
            "facts": {"os": "Linux", "arch": "x86_64", "hostname": "h", "timezone": "UTC"},
        }
        with self.https() as http:
            answer = http.post(f"{self.device_url}/device/v1/enroll", json=body)
        if answer.status_code == 201:
            self._take(answer.json())
        return answer

    def boot(self) -> None:
        """Start anew, as after a restart of the device."""
        self.boot_id, self.boot_count = uuid4(), self.boot_count + 1

    @contextmanager
    def https(self) -> Iterator[httpx.Client]:
        """An HTTPS client that believes the platform's CA and nobody else."""
        context = ssl.create_default_context(cafile=str(self.ca_path))
        with httpx.Client(verify=context, trust_env=False, timeout=PATIENCE_S) as http:
            yield http

    def up(self, kind: str) -> str:
        return f"tg/v1/{self.fleet}/{self.agent_id}/up/{kind}"

    def down(self, kind: str) -> str:
        return f"tg/v1/{self.fleet}/{self.agent_id}/down/{kind}"

    def heartbeat(self, seq: int = 0, **changes: Any) -> bytes:
        """A valid heartbeat."""
        message = {
            "boot_id": str(self.boot_id),
            "boot_count": self.boot_count,
            "seq": seq,
            "sent_at": datetime.now(UTC).isoformat(),
            "status": "ok",
            "cpu_percent": 1.5,
            "memory_percent": 2.5,
            "disk_percent": 3.5,
            "temperature_c": None,
            "accelerators": [],
            "package": None,
            "agent_version": "9.9.9",
            "metrics": {},
            "has": {"desired": None, "config": 0, "trust": 1},
            "ledger": None,
        }
        return json.dumps(message | changes).encode()

    @contextmanager
    def session(self) -> Iterator["DeviceSession"]:
        """A connected and subscribed MQTT session."""
        session = DeviceSession(self)
        session.open()
        try:
            yield session
        finally:
            session.close()

    def _csr(self) -> str:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def _take(self, answer: Json) -> None:
        self.certificate_path.write_text(answer["certificate"])
        self.agent_id, self.fleet = answer["agent_id"], answer["fleet"]
        self.mqtt_host, self.mqtt_port = answer["mqtt"]["host"], answer["mqtt"]["port"]


class DeviceSession:
    """What was heard on the device's topics, and whether the connection still stands."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.ends: queue.Queue[str] = queue.Queue()
        """One reason each time the connection ended without our asking for it."""
        self._subscribed: queue.Queue[list[int]] = queue.Queue()
        self._closing = False
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=device.agent_id,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
        )
        context = ssl.create_default_context(cafile=str(device.ca_path))
        context.load_cert_chain(device.certificate_path, device.key_path)
        client.tls_set_context(context)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect

    def open(self) -> None:
        self._client.connect(self.device.mqtt_host, self.device.mqtt_port, keepalive=60)
        self._client.loop_start()
        assert self._subscribed.get(timeout=PATIENCE_S) == [0, 0]

    def close(self) -> None:
        self._closing = True
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, kind: str, payload: bytes | Json) -> None:
        """Publish on an up topic and wait for the PUBACK."""
        self.publish_to(self.device.up(kind), payload)

    def publish_to(self, topic: str, payload: bytes | Json, *, acked: bool = True) -> None:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        sent = self._client.publish(topic, data, qos=1)
        if acked:
            sent.wait_for_publish(PATIENCE_S)
            assert sent.is_published()

    def wait_for(self, kind: str) -> Json:
        """The next message of a kind, its payload decoded where it is a signed envelope."""
        while True:
            topic, payload = self.heard.get(timeout=PATIENCE_S)
            if topic == self.device.down(kind):
                message: Json = json.loads(payload)
                if "payload" in message:
                    message = json.loads(base64.b64decode(message["payload"]))
                return message

    def _on_connect(self, client: paho.Client, _: Any, flags: Any, code: Any, *more: Any) -> None:
        if code.is_failure:
            self.ends.put(str(code))
            return
        client.subscribe([(self.device.down("#"), 0), (self._everyone(), 0)])

    def _everyone(self) -> str:
        return f"tg/v1/{self.device.fleet}/all/down/#"

    def _on_subscribe(self, client: paho.Client, _: Any, mid: int, codes: Any, *more: Any) -> None:
        self._subscribed.put([code.value for code in codes])

    def _on_message(self, client: paho.Client, _: Any, message: paho.MQTTMessage) -> None:
        self.heard.put((message.topic, bytes(message.payload)))

    def _on_disconnect(self, client: paho.Client, _: Any, flags: Any, code: Any, *m: Any) -> None:
        if not self._closing:
            self.ends.put(str(code))


def _spki_sha256(pem: bytes) -> str:
    public = x509.load_pem_x509_certificate(pem).public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()
