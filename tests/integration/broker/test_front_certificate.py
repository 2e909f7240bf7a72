"""A front without the CA's key: who certifies it, for what, and what it does while nobody does."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from broker.certificate import FrontCertificate
from broker.errors import CertificateRefused
from tensorguard.pki.identity import ServiceIdentity, identity_from_certificate
from tensorguard.services.certificates.service_certificates import (
    ANSWERS_A_MINUTE,
    HostsNotAllowed,
    allowed_hosts,
    answer_requests,
    check_hosts,
)
from tensorguard.services.keys.keyring import BROKER_SECRETS, Keyring
from tensorguard.services.platform import bootstrap
from tensorguard.store.engine import SessionMaker, create_engine, session_maker
from tensorguard.store.ids import new_id
from tensorguard.vault.local import KEK_FILE, LocalKeyProvider
from tests.integration.broker.certificates import TRUST_DOMAIN
from tests.integration.broker.signer import running_signer
from tests.patience import PATIENCE_S
from tests.postgres import Database


@dataclass
class Home:
    """An initialised platform whose database a front can reach."""

    database: Database
    data_dir: Path
    sessions: SessionMaker
    offset: timedelta = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    async def front(self, *hosts: str, instance: str = "front-1") -> FrontCertificate:
        async with self.sessions() as session:
            keyring = await Keyring.load(session, None, only=BROKER_SECRETS)
        return FrontCertificate(
            self.database.app_url,
            keyring,
            instance=instance,
            hosts=hosts or ("localhost", "127.0.0.1"),
            clock=self.now,
        )

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database.superuser_url) as connection:
            return connection.execute(query, values).fetchall()

    async def ask(self, csr: str, hosts: list[str]) -> None:
        with psycopg.connect(self.database.superuser_url) as connection:
            connection.execute(
                "INSERT INTO service_certificates VALUES (%s, 'broker', 'x', %s, %s, now())",
                (new_id(), csr, hosts),
            )


@pytest.fixture
async def home(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Home]:
    engine = create_engine(fresh_database.app_url, service="test")
    sessions = session_maker(engine)
    async with sessions.begin() as session:
        await bootstrap(
            session,
            kek=LocalKeyProvider.open_or_create(tmp_path / KEK_FILE),
            trust_domain=TRUST_DOMAIN,
            root_dir=tmp_path / "root",
            now=datetime.now(UTC),
            hash_with=lambda _: "no password",
        )
    yield Home(fresh_database, tmp_path, sessions)
    await engine.dispose()


async def test_a_front_waits_until_somebody_certifies_it(home: Home) -> None:
    front, stop = await home.front(), asyncio.Event()
    waiting = asyncio.create_task(front.obtain(stop))
    asked = "SELECT count(*) FROM service_certificates"
    async with asyncio.timeout(PATIENCE_S):
        while home.rows(asked) != [(1,)]:  # noqa: ASYNC110  the database tells nobody
            await asyncio.sleep(0.02)
    assert not waiting.done()
    async with running_signer(home.database.app_url, home.data_dir) as keyring:
        assert await asyncio.wait_for(waiting, PATIENCE_S)
    assert identity_from_certificate(front.certificate) == ServiceIdentity(TRUST_DOMAIN, "broker")
    names = front.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert isinstance(front.server_context([keyring.ca.certificate]), ssl.SSLContext)
    [(entry,)] = home.rows("SELECT entry FROM ledger_events WHERE type = 'service.certified'")
    told = json.loads(bytes(entry))
    assert told["subject"] == {"kind": "service", "id": "front-1"}
    assert told["details"]["serial"] == format(front.certificate.serial_number, "x")


async def test_a_front_that_is_told_to_stop_waits_no_longer(home: Home) -> None:
    front, stop = await home.front(), asyncio.Event()
    waiting = asyncio.create_task(front.obtain(stop))
    stop.set()
    assert await asyncio.wait_for(waiting, PATIENCE_S) is False


async def test_no_front_is_certified_for_hosts_that_are_not_the_platform_s(home: Home) -> None:
    front = await home.front("localhost", "bank.example")
    async with running_signer(home.database.app_url, home.data_dir, "broker.example"):
        with pytest.raises(CertificateRefused, match=r"bank\.example"):
            await asyncio.wait_for(front.obtain(asyncio.Event()), PATIENCE_S)
        allowed = await home.front("localhost", "broker.example", instance="front-2")
        assert await asyncio.wait_for(allowed.obtain(asyncio.Event()), PATIENCE_S)
    [(entry,)] = home.rows(
        "SELECT entry FROM ledger_events WHERE type = 'service.certificate-refused'"
    )
    assert json.loads(bytes(entry))["details"]["reason"] == "hosts-not-allowed"


async def test_while_nobody_answers_the_present_certificate_serves_on(home: Home) -> None:
    front, stop = await home.front(), asyncio.Event()
    async with running_signer(home.database.app_url, home.data_dir):
        assert await front.obtain(stop)
    first = front.certificate
    home.offset = timedelta(days=5)  # past two thirds of its life
    renewing = asyncio.create_task(front.keep_renewed(stop))
    async with asyncio.timeout(PATIENCE_S):
        while home.rows("SELECT count(*) FROM service_certificates") != [(2,)]:  # noqa: ASYNC110  as above
            await asyncio.sleep(0.02)
    assert front.certificate == first
    assert not renewing.done()
    home.offset = timedelta(days=5)
    async with home.sessions() as session:
        kek = LocalKeyProvider.open(home.data_dir / KEK_FILE)
        keyring = await Keyring.load(session, kek, only={"ca"})
    async with home.sessions.begin() as session:
        assert await answer_requests(session, keyring, hosts=allowed_hosts(), now=home.now()) == 1
    async with asyncio.timeout(PATIENCE_S):
        while front.certificate == first:  # noqa: ASYNC110  as above
            await asyncio.sleep(0.02)
    stop.set()
    await asyncio.wait_for(renewing, PATIENCE_S)


async def test_requests_that_prove_nothing_are_refused_and_many_are_answered_slowly(
    home: Home,
) -> None:
    key = rsa.generate_private_key(65537, 2048)
    weak = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = weak.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    for _ in range(ANSWERS_A_MINUTE + 5):
        await home.ask(csr, ["localhost"])
    await home.ask("rubbish", ["localhost"])
    kek = LocalKeyProvider.open(home.data_dir / KEK_FILE)
    async with home.sessions() as session:
        keyring = await Keyring.load(session, kek, only={"ca"})
    answered = 0
    for _ in range(3):
        async with home.sessions.begin() as session:
            hosts = allowed_hosts()
            answered += await answer_requests(session, keyring, hosts=hosts, now=home.now())
    assert answered == ANSWERS_A_MINUTE
    home.offset = timedelta(minutes=2)
    async with home.sessions.begin() as session:
        assert await answer_requests(session, keyring, hosts=allowed_hosts(), now=home.now()) == 6
    refusals = {
        text.partition(":")[0] for (text,) in home.rows("SELECT refusal FROM service_certificates")
    }
    assert refusals == {"csr-wrong-key", "csr-malformed"}
    assert home.rows("SELECT count(certificate) FROM service_certificates") == [(0,)]


@pytest.mark.parametrize(
    "hosts",
    [[], ["a" * 254], ["*.example"], ["x y"], ["a\x00b"], ["other.example"], ["localhost"] * 33],
)
def test_hosts_that_are_malformed_too_many_or_foreign_are_refused(hosts: list[str]) -> None:
    with pytest.raises(HostsNotAllowed):
        check_hosts(hosts, allowed_hosts("broker.example, 192.0.2.1"))


def test_the_platform_s_own_hosts_are_allowed_however_they_are_written() -> None:
    allowed = allowed_hosts("Broker.example, 192.0.2.1", "[::1]", "")
    check_hosts(["broker.example", "BROKER.EXAMPLE", "192.0.2.1", "::1", "localhost"], allowed)
