"""The deployments' platform with KEKs that change, and agents that ask for grants."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import boto3
import sqlalchemy as sa
from botocore.config import Config

from tensorguard.protocol.envelope import open_signed
from tensorguard.protocol.messages import Grant, KeyRequest
from tensorguard.services.keys import kek_changes, rewrap_jobs
from tensorguard.services.keys.kek_providers import KekProviders
from tensorguard.services.keys.kek_watch import KekWatch
from tensorguard.services.keys.keks import Kek, find_active_kek, get_kek, list_keks
from tensorguard.services.keys.key_release import KeyRelease
from tensorguard.services.keys.rewrap_jobs import RewrapJob
from tensorguard.services.keys.rewrapping import Rewrapper
from tensorguard.store import tables
from tensorguard.store.ids import new_id
from tensorguard.store.packages import Release
from tensorguard.vault.aws import AwsKeyProvider
from tensorguard.vault.reference import KekReference
from tensorguard.vault.remote import Limits
from tests.integration.deployments.builders import OPERATOR, Platform
from tests.integration.vault import fake_aws

QUICK = Limits(connect_s=0.5, call_s=1.0, attempts=2, back_off_s=0.01, breaks_after=50)


def aws_provider(kms: fake_aws.FakeKms, key_id: str) -> AwsKeyProvider:
    def make(key_id: str, limits: Limits) -> Any:
        return boto3.session.Session(
            aws_access_key_id=fake_aws.ACCESS_KEY, aws_secret_access_key="secret"
        ).client(
            "kms",
            endpoint_url=kms.url,
            config=Config(
                region_name=kms.region,
                connect_timeout=limits.connect_s,
                read_timeout=limits.call_s,
                retries={"total_max_attempts": 1, "mode": "standard"},
            ),
        )

    return AwsKeyProvider(key_id, limits=QUICK, make=make, rotation_wait_s=1)


@dataclass
class Vault(Platform):
    """A platform, its KEKs and its key release."""

    kek: KekProviders  # type: ignore[assignment]  # many, where the other tests have one
    _release: KeyRelease | None = field(default=None, init=False)

    @property
    def key_release(self) -> KeyRelease:
        if self._release is None:
            self._release = KeyRelease(self.keyring, self.kek)
        return self._release

    def restart_hub(self) -> None:
        self._release = None

    async def another_process(self) -> KekProviders:
        async with self.sessions() as session:
            return await KekProviders.load(session, self.kek.opener)

    async def kek_of(self, fleet: str | None = None) -> Kek:
        async with self.sessions() as session:
            found = await find_active_kek(session, fleet)
        assert found is not None
        return found

    async def get(self, kek: Kek) -> Kek:
        async with self.sessions() as session:
            return await get_kek(session, kek.id)

    async def all_keks(self) -> list[Kek]:
        async with self.sessions() as session:
            return await list_keks(session)

    async def rotate(self, kek: Kek | None = None) -> Kek:
        kek = kek or await self.kek_of()
        return await self.change(kek_changes.rotate_kek, kek.id)

    async def change(self, use_case: Any, *args: Any, **kwargs: Any) -> Any:
        return await self.do(use_case, self.kek, *args, by=OPERATOR, now=self.clock.now, **kwargs)

    async def start_rewrap(self, kek: Kek | None = None, **settings: Any) -> RewrapJob:
        kek = kek or await self.kek_of()
        settings = {"per_second": 1000} | settings
        made = await self.do(
            rewrap_jobs.start_rewrap, kek, by=OPERATOR, now=self.clock.now, **settings
        )
        assert isinstance(made, RewrapJob)
        return made

    def rewrapper(self, keks: KekProviders | None = None) -> Rewrapper:
        return Rewrapper(self.sessions, keks or self.kek, self.clock)

    async def finish(self, job: RewrapJob) -> RewrapJob:
        return await self.rewrapper().work_on(job.id, asyncio.Event())

    async def migrate(self, reference: str) -> RewrapJob:
        kek = await self.change(kek_changes.take_over, KekReference.parse(reference))
        return await self.start_rewrap(kek, kind="migrate")

    async def rows(self) -> dict[str, Any]:
        async with self.sessions() as session:
            rows = (await session.execute(sa.select(tables.secrets))).mappings()
            return {row["id"]: dict(row) for row in rows}

    async def under(self) -> dict[str, int]:
        """How many secrets are under which key and version."""
        counts: dict[str, int] = {}
        for row in (await self.rows()).values():
            place = f"{row['provider']}:{row['key_version'][:8]}"
            counts[place] = counts.get(place, 0) + 1
        return counts

    async def watch(self) -> None:
        self.clock.advance(seconds=61)
        await KekWatch(self.sessions, self.kek, self.clock).step()

    async def assign(self, release: Release, *fleets: str) -> None:
        await self.start(release, *fleets)
        await self.controller().step()
        await self.send()

    async def ask(self, release: Release, *agents: UUID) -> dict[UUID, Grant]:
        """Let agents ask for a grant, as one batch of the hub; return what they were answered."""
        requests = [
            (
                agent_id,
                KeyRequest(
                    request_id=new_id(),
                    package_digest=release.package_digest.hex(),
                    deployment_id=new_id(),
                ),
            )
            for agent_id in agents
        ]
        now = self.clock.now
        await self.key_release.prepare(self.sessions, requests, now=now)
        answers = await self.do(self._answer, requests)
        return {agent_id: self.open_grant(agent_id, envelope) for agent_id, envelope in answers}

    async def denied(self, release: Release, agent_id: UUID) -> str | None:
        """What one agent is told: None with a grant."""
        answers, give_up_at = await self.ask(release, agent_id), time.monotonic() + 20
        while agent_id not in answers:  # a busy machine: the key is still being opened
            assert time.monotonic() < give_up_at, "no answer"
            await asyncio.sleep(0.05)
            answers = await self.ask(release, agent_id)
        grant = answers[agent_id]
        assert (grant.sealed is None) == (grant.denied is not None)
        return grant.denied

    async def _answer(self, session: Any, requests: Any) -> Any:
        return await self.key_release.answer(session, requests, now=self.clock.now)

    def open_grant(self, agent_id: UUID, envelope: bytes) -> Grant:
        return open_signed(
            envelope,
            Grant,
            keys=self.keyring.trust.keys_for("grant", self.clock.now),
            trust_domain=self.keyring.trust_domain,
            now=self.clock.now,
            agent_id=agent_id,
        )
