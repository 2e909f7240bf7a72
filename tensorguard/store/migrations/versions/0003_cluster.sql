-- Hubs, and which of them reads which partition of the uplink stream.

CREATE TABLE hubs (
    id          text COLLATE "C" PRIMARY KEY,
    started_at  timestamptz NOT NULL,
    lease_until timestamptz NOT NULL
);

-- A hub reads a partition while it holds the lease. The epoch grows with each new holder: what an
-- older one still wants to write is refused by it.
CREATE TABLE uplink_partitions (
    partition   integer PRIMARY KEY CHECK (partition >= 0),
    hub_id      text COLLATE "C",
    lease_until timestamptz,
    epoch       bigint NOT NULL DEFAULT 0
);

GRANT SELECT, INSERT, UPDATE, DELETE ON hubs, uplink_partitions TO tg_app;
