-- Shows what is not materialised yet as well.
CREATE MATERIALIZED VIEW heartbeats_{{name}}
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT agent_id, time_bucket(INTERVAL '{{length}}', {{column}}) AS bucket,
{{figures}}
FROM {{source}} GROUP BY agent_id, time_bucket(INTERVAL '{{length}}', {{column}})
WITH NO DATA;
GRANT SELECT ON heartbeats_{{name}} TO tg_app;
ALTER MATERIALIZED VIEW heartbeats_{{name}} SET (timescaledb.enable_columnstore = true,
    timescaledb.segmentby = 'agent_id', timescaledb.orderby = 'bucket DESC');
