"""Every table as SQLAlchemy sees it; migrations/ makes them, and a test compares the two.

All are loaded together, because foreign keys find their tables by name.
"""

from tensorguard.store.tables.agents import (
    agent_state,
    agent_status,
    agents,
    certificates,
    commands,
    fleet_configs,
    fleet_notices,
    fleets,
)
from tensorguard.store.tables.columns import TextC, Time, metadata
from tensorguard.store.tables.deployments import (
    agent_desired,
    deployment_agents,
    deployment_stages,
    deployments,
    package_uploads,
    packages,
    releases,
)
from tensorguard.store.tables.enrollment import enrollment_tokens, manufacturer_cas, recoveries
from tensorguard.store.tables.keys import kek_versions, keks, rewrap_jobs, secrets
from tensorguard.store.tables.ledger import (
    ledger_checkpoints,
    ledger_entries,
    ledger_events,
    ledger_forks,
    ledger_hashes,
    ledger_unsequenced,
    privacy_keys,
    subject_keys,
)
from tensorguard.store.tables.people import api_keys, approvals, sessions, users
from tensorguard.store.tables.platform import (
    broker_fronts,
    hubs,
    idempotency_keys,
    platform,
    service_certificates,
    stream_events,
    uplink_partitions,
)
from tensorguard.store.tables.revocation import (
    fleet_revocations,
    revocation_receipts,
    revocations,
    revocations_unconfirmed,
)
from tensorguard.store.tables.sinks import sink_dead_letters, sinks
from tensorguard.store.tables.telemetry import (
    agent_event_budgets,
    agent_events,
    agent_logs,
    agent_requests,
    dead_letters,
    heartbeats,
)
from tensorguard.store.tables.trust import ca_certificates, publishers, signing_keys, trust_bundles

__all__ = [
    "TextC",
    "Time",
    "agent_desired",
    "agent_event_budgets",
    "agent_events",
    "agent_logs",
    "agent_requests",
    "agent_state",
    "agent_status",
    "agents",
    "api_keys",
    "approvals",
    "broker_fronts",
    "ca_certificates",
    "certificates",
    "commands",
    "dead_letters",
    "deployment_agents",
    "deployment_stages",
    "deployments",
    "enrollment_tokens",
    "fleet_configs",
    "fleet_notices",
    "fleet_revocations",
    "fleets",
    "heartbeats",
    "hubs",
    "idempotency_keys",
    "kek_versions",
    "keks",
    "ledger_checkpoints",
    "ledger_entries",
    "ledger_events",
    "ledger_forks",
    "ledger_hashes",
    "ledger_unsequenced",
    "manufacturer_cas",
    "metadata",
    "package_uploads",
    "packages",
    "platform",
    "privacy_keys",
    "publishers",
    "recoveries",
    "releases",
    "revocation_receipts",
    "revocations",
    "revocations_unconfirmed",
    "rewrap_jobs",
    "secrets",
    "service_certificates",
    "sessions",
    "signing_keys",
    "sink_dead_letters",
    "sinks",
    "stream_events",
    "subject_keys",
    "trust_bundles",
    "uplink_partitions",
    "users",
]
