"""A platform with agents, and packages that its publisher has signed."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy.ext.asyncio import AsyncSession

from hub.rollouts import RolloutController
from tensorguard.pki.bundle import TrustStore
from tensorguard.protocol.envelope import open_signed
from tensorguard.protocol.messages import Desired, Progress
from tensorguard.rollouts.strategy import AT_ONCE
from tensorguard.services.deployments import deployments, moving, releases
from tensorguard.services.deployments.deployments import Plan
from tensorguard.services.deployments.packages import Uploaded
from tensorguard.services.deployments.progress import Applied, apply_progress_many, confirm_running
from tensorguard.services.deployments.receiving import Receiver
from tensorguard.services.deployments.upload_at_once import upload_at_once
from tensorguard.services.deployments.verifying import UploadVerifier
from tensorguard.services.evidence.events import Actor
from tensorguard.services.fleets import fleets
from tensorguard.services.keys.keyring import Keyring
from tensorguard.services.trust import publishers
from tensorguard.services.trust.rootkeys import load_root_directory
from tensorguard.services.trust.trust_publishing import publish_next
from tensorguard.store import tables
from tensorguard.store.deployments import Deployment, count_states
from tensorguard.store.engine import SessionMaker
from tensorguard.store.ids import new_id
from tensorguard.store.package_files import PackageFiles
from tensorguard.store.packages import Release
from tensorguard.tgsp.builder import build
from tensorguard.tgsp.manifest import Target
from tensorguard.vault.local import LocalKeyProvider

OPERATOR = Actor("user", "operator")
START = datetime.fromisoformat("2026-03-01T12:00:00+00:00")


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> None:
        self.now += timedelta(**duration)


@dataclass
class Platform:
    """The services on one database, as the hub and the api use them."""

    sessions: SessionMaker
    keyring: Keyring
    kek: LocalKeyProvider
    files: PackageFiles
    folder: Path
    clock: Clock
    publisher: Ed25519PrivateKey
    encryption_keys: dict[UUID, X25519PrivateKey] = field(default_factory=dict)
    _seq: int = 0

    def controller(self, **settings: Any) -> RolloutController:
        return RolloutController(self.sessions, self.keyring, clock=self.clock, **settings)

    async def do(self, use_case: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a use case in a transaction of its own."""
        async with self.sessions.begin() as session:
            return await use_case(session, *args, **kwargs)

    async def register_publisher(
        self, key: Ed25519PrivateKey, *names: str, publish: bool = True, **settings: Any
    ) -> str:
        """Register a publisher; with the trust bundle that tells agents so, unless told not to."""
        known: dict[str, Any] = {
            "name": "Model team",
            "public_pem": public_pem(key),
            "names": names or ("*",),
            "not_after": self.clock.now + timedelta(days=365),
        }
        publisher = await self.do(
            publishers.register_publisher, **(known | settings), by=OPERATOR, now=self.clock.now
        )
        if publish:
            await self.publish_trust()
        return str(publisher.kid)

    async def publish_trust(self) -> TrustStore:
        """Publish the next trust bundle, as where the root keys are."""
        roots = load_root_directory(self.folder / "root")
        store = await self.do(publish_next, roots, by=OPERATOR, now=self.clock.now)
        assert isinstance(store, TrustStore)
        return store

    async def add_fleet(self, slug: str) -> str:
        await self.do(
            fleets.create_fleet, self.keyring, slug=slug, name=slug, by=OPERATOR, now=self.clock.now
        )
        return slug

    async def add_agent(
        self, fleet: str, *, tags: dict[str, str] | None = None, presence: str = "online"
    ) -> UUID:
        """Insert an agent as enrollment leaves it, with a presence as the sweeper gives it."""
        agent_id, key = new_id(), X25519PrivateKey.generate()
        async with self.sessions.begin() as session:
            await session.execute(
                sa.insert(tables.agents).values(
                    id=agent_id,
                    fleet=fleet,
                    name=f"agent-{agent_id}",
                    tags=tags or {},
                    facts={},
                    status="active",
                    enrolled_by="token",
                    enrolled_spki_sha256=secrets.token_bytes(32),
                    encryption_key=key.public_key().public_bytes_raw(),
                    created_at=self.clock.now,
                    enrolled_at=self.clock.now,
                )
            )
            await session.execute(
                sa.insert(tables.agent_state).values(
                    agent_id=agent_id, received_at=self.clock.now if presence == "online" else None
                )
            )
            await session.execute(
                sa.insert(tables.agent_status).values(
                    agent_id=agent_id, presence=presence, presence_since=self.clock.now
                )
            )
        self.encryption_keys[agent_id] = key
        return agent_id

    def build_package(
        self, *, name: str = "model", seq: int | None = None, **settings: Any
    ) -> Path:
        """Build a package file; whatever is not said is as a good one has it."""
        self._seq += 1
        seq = seq or self._seq
        source = self.folder / "model.onnx"
        source.write_bytes(settings.pop("content", secrets.token_bytes(50_000)))
        out = self.folder / f"{secrets.token_hex(4)}.tgsp"
        created = int(self.clock.now.timestamp())
        known: dict[str, Any] = {
            "name": name,
            "version": f"1.{seq}.0",
            "seq": seq,
            "publisher": self.publisher,
            "recipient": self.keyring.recipient_key.public_key(),
            "created": created,
            "not_before": created,
        }
        build(source, out, **(known | settings))
        return out

    async def upload(self, path: Path) -> Uploaded:
        """Take a package in as the api does."""
        return await upload_at_once(
            self.receiver(), self.verifier(), read_file(path), length_bytes=None, by=OPERATOR
        )

    def receiver(self, **settings: Any) -> Receiver:
        settings = {"limit_bytes": 10**7} | settings
        return Receiver(self.sessions, self.files, self.clock, **settings)

    def verifier(self) -> UploadVerifier:
        return UploadVerifier(self.sessions, self.files, self.keyring, self.kek, self.clock)

    async def release(self, **settings: Any) -> Release:
        """Build, upload and release a package."""
        return await self.release_of(
            await asyncio.to_thread(lambda: self.build_package(**settings))
        )

    async def release_of(self, path: Path) -> Release:
        """Upload and release a package."""
        uploaded = await self.upload(path)
        made = await self.do(
            releases.create_release,
            package_digest=uploaded.package.digest,
            by=OPERATOR,
            now=self.clock.now,
        )
        assert isinstance(made, Release)
        return made

    async def draft(self, release: Release, *slugs: str, **settings: Any) -> Deployment:
        made = await self.do(
            deployments.create_deployment,
            Plan(release_id=release.id, fleets=slugs, **({"strategy": AT_ONCE} | settings)),
            by=OPERATOR,
            now=self.clock.now,
        )
        assert isinstance(made, Deployment)
        return made

    async def start(self, release: Release, *slugs: str, **settings: Any) -> Deployment:
        draft = await self.draft(release, *slugs, **settings)
        started = await self.do(moving.start_deployment, draft.id, by=OPERATOR, now=self.clock.now)
        assert isinstance(started, Deployment)
        return started

    async def send(self) -> dict[UUID, Desired]:
        """Hand out what is due, as the outbox does; return what each agent now holds."""
        desired, status = tables.agent_desired, tables.agent_status
        present = sa.select(status.c.agent_id).where(status.c.presence == "online")
        async with self.sessions.begin() as session:
            rows = await session.execute(
                sa.update(desired)
                .where(desired.c.sent_at.is_(None), desired.c.agent_id.in_(present))
                .values(sent_at=self.clock.now)
                .returning(desired.c.agent_id, desired.c.envelope)
            )
            return {agent_id: self.open(agent_id, envelope) for agent_id, envelope in rows}

    def open(self, agent_id: UUID, envelope: bytes) -> Desired:
        """Open a desired document as its agent does."""
        return open_signed(
            bytes(envelope),
            Desired,
            keys=self.keyring.trust.keys_for("desired", self.clock.now),
            trust_domain=self.keyring.trust_domain,
            now=self.clock.now,
            agent_id=agent_id,
        )

    async def report(
        self, deployment: Deployment, agent_id: UUID, *states: str, reason: str | None = None
    ) -> Applied:
        """Tell the platform of an agent's progress, all in one batch."""
        messages = [
            (
                agent_id,
                Progress(
                    deployment_id=deployment.id, state=state, at=self.clock.now, reason=reason
                ),
            )
            for state in states
        ]
        applied = await self.do(apply_progress_many, messages, now=self.clock.now)
        assert isinstance(applied, Applied)
        return applied

    async def heartbeat(self, agent_id: UUID, *, runs: bytes | None = None) -> None:
        """Store what a heartbeat of an agent that follows its document says."""
        state, desired = tables.agent_state, tables.agent_desired
        async with self.sessions.begin() as session:
            held = sa.select(desired.c.epoch, desired.c.revision).where(
                desired.c.agent_id == agent_id
            )
            row = (await session.execute(held)).one_or_none()
            await session.execute(
                sa.update(state)
                .where(state.c.agent_id == agent_id)
                .values(
                    received_at=self.clock.now,
                    package_digest=runs,
                    desired_epoch=row.epoch if row else None,
                    desired_revision=row.revision if row else None,
                )
            )
            await confirm_running(session, {agent_id: runs}, now=self.clock.now)

    async def confirm(self, running: dict[UUID, bytes | None]) -> None:
        """Take what heartbeats say that has been stored."""
        await self.do(confirm_running, running, now=self.clock.now)

    async def set_presence(self, agent_id: UUID, presence: str) -> None:
        status = tables.agent_status
        async with self.sessions.begin() as session:
            await session.execute(
                sa.update(status).where(status.c.agent_id == agent_id).values(presence=presence)
            )

    async def set_status(self, agent_id: UUID, status: str) -> None:
        agents = tables.agents
        async with self.sessions.begin() as session:
            await session.execute(
                sa.update(agents).where(agents.c.id == agent_id).values(status=status)
            )

    async def states(self, deployment: Deployment) -> dict[str, int]:
        async with self.sessions() as session:
            counts = await count_states(session, [deployment.id])
        return {str(state): count for state, count in counts.get(deployment.id, {}).items()}

    async def find(self, deployment: Deployment) -> Deployment:
        found = await self.do(deployments.get_deployment, deployment.id)
        assert isinstance(found, Deployment)
        return found

    async def events(self, *types: str) -> list[str]:
        """Return the types of the ledger's events, in their order, of these kinds if any."""
        event = tables.ledger_events
        async with self.sessions() as session:
            found = (await session.execute(sa.select(event.c.type).order_by(event.c.id))).scalars()
            return [one for one in found if not types or one.startswith(types)]


def public_pem(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


async def read_file(path: Path) -> AsyncIterator[bytes]:
    """A file in chunks, as an upload arrives."""
    data = await asyncio.to_thread(path.read_bytes)
    for start in range(0, len(data), 20_000):
        yield data[start : start + 20_000]


def target(**fields: Any) -> Target:
    return Target(**fields)


async def count_rows(session: AsyncSession, table: sa.Table) -> int:
    return int((await session.execute(sa.select(sa.func.count()).select_from(table))).scalar_one())
