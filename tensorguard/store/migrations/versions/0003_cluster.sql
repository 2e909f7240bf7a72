-- Hubs, and which of them reads which partition of the uplink stream; how heartbeats are kept.

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

-- What a whole fleet was told last, by whichever hub: no other tells it again.
CREATE TABLE fleet_notices (
    fleet           text COLLATE "C" PRIMARY KEY REFERENCES fleets,
    config_revision bigint NOT NULL DEFAULT 0,
    checkpoint_at   timestamptz NOT NULL DEFAULT '-infinity'
);

GRANT SELECT, INSERT, UPDATE, DELETE ON hubs, uplink_partitions, fleet_notices TO tg_app;

-- How long heartbeats and their rollups are kept. Late ones are rolled up for as long as
-- late_heartbeats says: what that reads has to be there still.
ALTER TABLE platform
    ADD COLUMN columnstore_after   interval NOT NULL DEFAULT '2 days',
    ADD COLUMN rollup_1m_retention interval NOT NULL DEFAULT '30 days',
    ADD COLUMN rollup_1h_retention interval NOT NULL DEFAULT '365 days',
    ADD COLUMN rollup_1d_retention interval NOT NULL DEFAULT '1095 days',
    ADD COLUMN late_heartbeats     interval NOT NULL DEFAULT '3 days',
    ADD CHECK (heartbeat_retention >= late_heartbeats + INTERVAL '1 day'),
    ADD CHECK (rollup_1m_retention >= late_heartbeats + INTERVAL '2 days'),
    ADD CHECK (rollup_1h_retention >= late_heartbeats + INTERVAL '3 days'),
    ADD CHECK (rollup_1d_retention >= late_heartbeats + INTERVAL '4 days');

-- By time, of all agents: what a rollup reads. A few pages for a day, next to nothing to write.
CREATE INDEX heartbeats_received_at_idx ON heartbeats
    USING brin (received_at) WITH (pages_per_range = 16, autosummarize = on);
