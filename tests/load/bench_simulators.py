"""What a simulated agent costs: memory with its TLS connection, time to connect, time to beat.

python tests/load/bench_simulators.py [agents]

The embedded front serves in a process of its own; the agents are those of `tensorguard simulate`,
with identities that are made here instead of enrolled.
"""

import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4

import uvloop
from bench_broker import FLEET, TRUST_DOMAIN, cpu_seconds, serving
from cryptography.hazmat.primitives.asymmetric import ec
from uuid6 import uuid7

from agent.core.agent import AgentCore
from agent.core.clock import Moment
from agent.core.outbox import Outbox
from agent.core.settings import CoreSettings, Credentials, Telemetry
from agent.core.state import AgentState
from agent.runtime.keys import private_pem
from simulators.identities import Home, IdentityStore, Kept
from simulators.simulation import Plan, Simulation
from tensorguard.pki.bundle import TrustStore, sign_bundle, trusted_key
from tensorguard.pki.identity import AgentIdentity
from tensorguard.pki.issuer import CertificateAuthority, certificate_pem
from tensorguard.pki.keys import Ed25519Signer
from tensorguard.protocol.messages import TrustBundle, TrustedKeys

NOW = datetime.now(UTC)
BEATS = 5_000
LIMIT_KIB = 60.0


def main(agents: int = 500) -> dict[str, float | None]:
    """Print and give the figures."""
    figures: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory(prefix="bench-simulators-") as name:
        folder = Path(name)
        authority = CertificateAuthority.create(TRUST_DOMAIN, NOW - timedelta(days=1))
        (folder / "ca.pem").write_text(authority.certificate_pem)
        (folder / "ca.key").write_bytes(authority.private_key_der())
        trust = make_trust(authority)
        with serving("front", folder) as (port, pid):
            begun_s = time.perf_counter()
            run = Prepared(folder, agents, port, authority, trust)
            cpu_s = time.process_time()
            summary = uvloop.run(run.run())
            figures["kib_per_agent"] = summary["memory_kib_per_agent"]
            figures["connected"] = summary["connects"]
            figures["connect_p50_ms"] = summary["connect_latency_ms"]["p50"]
            figures["cpu_ms_per_agent"] = (time.process_time() - cpu_s) * 1000 / agents
            figures["front_cpu_ms_per_agent"] = cpu_seconds(pid) * 1000 / agents
            figures["took_s"] = time.perf_counter() - begun_s
    figures["heartbeat_us"] = time_heartbeats(trust)
    for key, value in figures.items():
        print(f"{key:24} {'-' if value is None else f'{value:.1f}'}")
    memory = figures["kib_per_agent"]
    print(f"{'within 60 KiB':24} {memory is not None and memory <= LIMIT_KIB}")
    return figures


class Prepared(Simulation):
    """A simulation whose identities are made by us, so that no platform has to run."""

    def __init__(
        self,
        folder: Path,
        agents: int,
        port: int,
        authority: CertificateAuthority,
        trust: TrustStore,
    ) -> None:
        plan = Plan(
            agents=agents,
            state=folder / "state",
            interval_s=30.0,
            duration_s=agents / 100 + 8.0,
            drain_s=0.1,
        )
        super().__init__(plan, lambda line: None)
        self._port = port
        self._authority = authority
        self._trust = trust

    async def _identities(self, store: IdentityStore) -> list[Kept]:
        store.keep_trust(self._trust.version, self._trust.envelope)
        return [self._make(store, number) for number in range(self._plan.agents)]

    def _make(self, store: IdentityStore, number: int) -> Kept:
        key = ec.generate_private_key(ec.SECP256R1())
        identity = AgentIdentity(TRUST_DOMAIN, FLEET, UUID(str(uuid7())))
        leaf = self._authority.issue_agent(key.public_key(), identity, NOW)
        home = Home(
            number=number,
            agent_id=identity.agent_id,
            fleet=FLEET,
            trust_domain=TRUST_DOMAIN,
            device_url="https://localhost:1",
            mqtt_host="localhost",
            mqtt_port=self._port,
            encryption_key=bytes(32),
        )
        state = AgentState(time_floor=NOW)
        store.add(home, state, private_pem(key) + certificate_pem(leaf).encode())
        return Kept(home=home, state=state, outbox=None)


def make_trust(authority: CertificateAuthority) -> TrustStore:
    """A trust bundle with one key for everything."""
    until = NOW + timedelta(days=30)
    root, online = Ed25519Signer.generate(), Ed25519Signer.generate()
    one = [trusted_key(online.public_raw, until)]
    bundle = TrustBundle(
        trust_domain=TRUST_DOMAIN,
        issued_at=NOW,
        expires_at=until,
        version=1,
        ca=[authority.certificate_pem],
        keys=TrustedKeys(
            root=[trusted_key(root.public_raw, until)],
            desired=one,
            grant=one,
            command=one,
            config=one,
            ledger=one,
        ),
        root_threshold=1,
    )
    return TrustStore.open_first(sign_bundle(bundle, [root]))


def time_heartbeats(trust: TrustStore) -> float:
    """Microseconds that the core takes for a tick and a heartbeat."""
    random = Random(1)
    core = AgentCore(
        CoreSettings(agent_version="0.1.0", build_time=NOW),
        Credentials(
            AgentIdentity(TRUST_DOMAIN, FLEET, uuid4()), NOW, NOW + timedelta(days=7), "ab" * 32
        ),
        AgentState(time_floor=NOW),
        Outbox(uuid4()),
        trust,
        uniform=random.random,
    )
    sample = Telemetry(cpu_percent=10.0, memory_percent=20.0, disk_percent=30.0)
    moment = Moment(NOW, 0.0)
    core.start(moment)
    core.connected(moment)
    begun_s = time.perf_counter()
    for beat in range(BEATS):
        moment = Moment(NOW, float(beat))
        core.tick(moment)
        core.heartbeat(moment, sample)
    return (time.perf_counter() - begun_s) / BEATS * 1e6


if __name__ == "__main__":
    arguments: list[Any] = [int(argument) for argument in sys.argv[1:]]
    main(*arguments)
