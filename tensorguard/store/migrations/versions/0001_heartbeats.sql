-- Telemetry history. No unique constraint, no foreign key, one index: duplicates and stragglers are
-- dropped before it, and a device's clock never chooses a partition.
CREATE TABLE heartbeats (
    agent_id       uuid NOT NULL,
    received_at    timestamptz NOT NULL,
    sent_at        timestamptz NOT NULL,
    boot_count     bigint NOT NULL,
    seq            bigint NOT NULL,
    status         text NOT NULL,
    cpu_percent    real NOT NULL,
    memory_percent real NOT NULL,
    disk_percent   real NOT NULL,
    temperature_c  real,
    package_digest bytea,
    accelerators   jsonb,
    metrics        jsonb
) {{partitioning}};
CREATE INDEX heartbeats_agent_idx ON heartbeats (agent_id, received_at DESC);
GRANT SELECT, INSERT ON heartbeats TO tg_app;
