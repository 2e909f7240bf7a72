-- Ledger entries by who acted, by fleet, and of what failed: at a million entries a list of few of
-- them would read all.

CREATE INDEX ledger_events_actor_idx ON ledger_events (actor_id, id);
CREATE INDEX ledger_events_fleet_idx ON ledger_events (fleet, id);
-- Nearly every entry is a success.
CREATE INDEX ledger_events_outcome_idx ON ledger_events (outcome, id) WHERE outcome <> 'success';
