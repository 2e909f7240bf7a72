-- Rollups without TimescaleDB: the maintenance makes them, behind the present by minutes.

-- Everything before is rolled up, but for what came late.
CREATE TABLE rollup_watermarks (
    rollup    text PRIMARY KEY CHECK (rollup IN ('1m', '1h', '1d')),
    watermark timestamptz NOT NULL
);
INSERT INTO rollup_watermarks
SELECT rollup, date_trunc('day', least(earliest, now()), 'UTC') - INTERVAL '1 day'
FROM unnest(ARRAY['1m', '1h', '1d']) AS rollup, (SELECT min(received_at) FROM heartbeats) AS of (earliest);

CREATE FUNCTION rolled_up(wanted text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT watermark FROM rollup_watermarks WHERE rollup = wanted
$$;

-- A transaction that writes heartbeats has its number before it writes the first one. Once all
-- numbers below `xact` have ended, every heartbeat that was written until `at` is to be seen.
CREATE TABLE rollup_mark (
    singleton     boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    settled_until timestamptz NOT NULL DEFAULT 'epoch',
    at            timestamptz NOT NULL DEFAULT 'epoch',
    xact          bigint NOT NULL DEFAULT 0
);
INSERT INTO rollup_mark DEFAULT VALUES;

-- What has to be rolled up again, since heartbeats of that time were written ten minutes later or
-- more. No key: hubs that write the same minute do not wait for each other.
CREATE TABLE rollup_late (
    rollup text NOT NULL CHECK (rollup IN ('1m', '1h', '1d')),
    bucket timestamptz NOT NULL
);
CREATE INDEX rollup_late_bucket_idx ON rollup_late (rollup, bucket);

CREATE FUNCTION note_late_heartbeat() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE minute timestamptz := date_bin('1 minute', NEW.received_at, 'epoch');
BEGIN
    -- What comes late comes by the thousand, in the order of its time.
    IF minute::text IS DISTINCT FROM current_setting('tensorguard.late_minute', true) THEN
        INSERT INTO rollup_late VALUES ('1m', minute);
        PERFORM set_config('tensorguard.late_minute', minute::text, true);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER late_heartbeat AFTER INSERT ON heartbeats FOR EACH ROW
    WHEN (NEW.received_at < clock_timestamp() - INTERVAL '10 minutes')
    EXECUTE FUNCTION note_late_heartbeat();

GRANT SELECT ON rollup_watermarks TO tg_app;
GRANT INSERT ON rollup_late TO tg_app;
