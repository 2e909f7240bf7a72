-- One agent's heartbeats together, the newest first: what a chart reads.
ALTER TABLE heartbeats SET (timescaledb.enable_columnstore = true,
    timescaledb.segmentby = 'agent_id', timescaledb.orderby = 'received_at DESC');
