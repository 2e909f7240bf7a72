-- What the maintenance has rolled up. Partitioned like the heartbeats.
CREATE TABLE rollup_{{name}} (
    agent_id           uuid NOT NULL,
    bucket             timestamptz NOT NULL,
    heartbeats         integer NOT NULL,
    degraded           integer NOT NULL,
    errors             integer NOT NULL,
    cpu_percent_sum    double precision NOT NULL,
    cpu_percent_min    real NOT NULL,
    cpu_percent_max    real NOT NULL,
    memory_percent_sum double precision NOT NULL,
    memory_percent_min real NOT NULL,
    memory_percent_max real NOT NULL,
    disk_percent_sum   double precision NOT NULL,
    disk_percent_min   real NOT NULL,
    disk_percent_max   real NOT NULL,
    temperatures       integer NOT NULL,
    temperature_c_sum  double precision,
    temperature_c_min  real,
    temperature_c_max  real,
    PRIMARY KEY (agent_id, bucket)
) PARTITION BY RANGE (bucket);
CREATE INDEX rollup_{{name}}_bucket_idx ON rollup_{{name}}
    USING brin (bucket) WITH (pages_per_range = 16, autosummarize = on);

-- Simple enough for the planner to look through it: an agent's chart reads that agent's rows only.
CREATE FUNCTION roll_up_{{name}}(since timestamptz, until timestamptz)
RETURNS SETOF rollup_{{name}} LANGUAGE sql STABLE AS $$
SELECT agent_id, date_bin('{{length}}', {{column}}, 'epoch') AS bucket,
{{figures}}
FROM {{source}} WHERE {{column}} >= since AND {{column}} < until
GROUP BY agent_id, date_bin('{{length}}', {{column}}, 'epoch')
$$;

-- Shows what is not rolled up yet as well.
CREATE VIEW heartbeats_{{name}} AS
SELECT * FROM rollup_{{name}} WHERE bucket < rolled_up('{{name}}')
UNION ALL
SELECT * FROM roll_up_{{name}}(rolled_up('{{name}}'), 'infinity');
GRANT SELECT ON heartbeats_{{name}} TO tg_app;
