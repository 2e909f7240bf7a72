-- The oldest keys of events are deleted by when they came.
CREATE INDEX agent_events_received_at_idx ON agent_events (received_at);
