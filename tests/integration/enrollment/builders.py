"""A platform that was started once, and devices that want to join it."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from argon2 import PasswordHasher
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from tensorguard.protocol.join import parse_join
from tensorguard.protocol.messages import Enrolled, EnrollmentPending, EnrollRequest, MqttAddress
from tensorguard.services.enrollment.enrollment import enroll
from tensorguard.services.enrollment.tokens import CreatedToken, TokenTerms, create_token
from tensorguard.services.evidence.event import Actor
from tensorguard.services.fleets.fleets import create_fleet
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.platform import Bootstrapped, bootstrap
from tensorguard.store.engine import SessionMaker
from tensorguard.vault.local import LocalKeyProvider
from tests.postgres import Database

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TRUST_DOMAIN = "example.tensorguard"
OPERATOR = Actor("user", "0195a1b2-0000-7000-8000-000000000001")
MQTT = MqttAddress(host="127.0.0.1", port=8883)
DEVICE_URL = "https://127.0.0.1:8443"
PEER = "192.0.2.7"
FLEET = "hospital-a"
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


async def start_platform(
    maker: SessionMaker, kek: LocalKeyProvider, root_dir: Path, trust_domain: str = TRUST_DOMAIN
) -> Bootstrapped:
    async with maker() as session, session.begin():
        return await bootstrap(
            session,
            kek=kek,
            trust_domain=trust_domain,
            root_dir=root_dir,
            now=NOW,
            hash_with=CHEAP.hash,
        )


@dataclass
class Platform:
    """What a service has in its hands after its start."""

    database: Database
    maker: SessionMaker
    kek: LocalKeyProvider
    root_dir: Path
    keyring: Keyring

    async def token(self, fleet: str = FLEET, *, now: datetime = NOW, **terms: Any) -> CreatedToken:
        async with self.maker() as session, session.begin():
            return await create_token(
                session,
                self.keyring,
                fleet,
                TokenTerms(**{"ttl": timedelta(hours=1), **terms}),
                device_url=DEVICE_URL,
                by=OPERATOR,
                now=now,
            )

    async def fleet(self, slug: str) -> None:
        async with self.maker() as session, session.begin():
            await create_fleet(
                session, self.keyring, slug=slug, name="Another", by=OPERATOR, now=NOW
            )

    async def enroll(
        self, request: EnrollRequest, *, now: datetime = NOW, peer_ip: str = PEER
    ) -> Enrolled | EnrollmentPending:
        async with self.maker() as session, session.begin():
            return await enroll(session, self.keyring, request, peer_ip=peer_ip, mqtt=MQTT, now=now)

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database.superuser_url) as connection:
            return connection.execute(query, values).fetchall()

    def run(self, statement: str, *values: object) -> None:
        with psycopg.connect(self.database.superuser_url) as connection:
            connection.execute(statement, values)

    def events(self, type_: str) -> list[str]:
        rows = self.rows("SELECT entry FROM ledger_events WHERE type = %s ORDER BY id", type_)
        return [bytes(entry).decode() for (entry,) in rows]

    def stored(self) -> dict[str, int]:
        """How many rows there are of everything that an enrollment writes."""
        names = ["agents", "certificates", "agent_state", "agent_status", "ledger_events"]
        counts = {name: self.rows(f"SELECT count(*) FROM {name}")[0][0] for name in names}
        left = self.rows("SELECT coalesce(sum(uses_left), 0) FROM enrollment_tokens")[0][0]
        return {**counts, "uses_left": left}


@dataclass
class Device:
    """A device with its two keys; asks for nothing but its own certificate."""

    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    encryption_key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    name: str = field(default_factory=lambda: f"device-{secrets.token_hex(4)}")
    facts: Mapping[str, Any] = field(default_factory=lambda: {"os": "linux", "hostname": "ward-3"})

    def request(self, join: str, **changes: Any) -> EnrollRequest:
        fields = {
            "token": parse_join(join).token,
            "csr": self.csr(),
            "encryption_key": self.encryption_key.public_key().public_bytes_raw(),
            "name": self.name,
            "facts": dict(self.facts),
        }
        return EnrollRequest(**{**fields, **changes})

    def csr(self) -> str:
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
