-- The oldest keys of events are deleted by when they came.
CREATE INDEX agent_events_received_at_idx ON agent_events (received_at);

-- The end of the certificate that is denied; null: unknown, and the denial has no end. It stands
-- here, where the services' role changes nothing: who moved `certificates.not_after` would otherwise
-- admit a denied certificate again.
ALTER TABLE revocations ADD COLUMN not_after timestamptz,
    ADD CONSTRAINT revocations_agent_for_good CHECK (not_after IS NULL OR agent_id IS NULL);
UPDATE revocations r SET not_after = c.not_after FROM certificates c WHERE c.serial = r.serial;
CREATE INDEX revocations_not_after_idx ON revocations (not_after) WHERE not_after IS NOT NULL;

-- The services' role deletes no revocation but by this: the time is the database's own. Seven days,
-- because clocks differ. The newest stays: the CRL's number and what fronts have applied go by it.
CREATE FUNCTION revocations_forget(most integer) RETURNS bigint LANGUAGE sql
SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    -- Tables by their schema: a temporary one of the caller's would be found before.
    WITH ended AS (
        SELECT seq FROM public.revocations
        WHERE not_after < now() - interval '7 days'
            AND seq < (SELECT max(seq) FROM public.revocations)
        ORDER BY not_after LIMIT most
    ), receipts AS (
        DELETE FROM public.revocation_receipts r USING ended WHERE r.seq = ended.seq
    ), gone AS (
        DELETE FROM public.revocations r USING ended WHERE r.seq = ended.seq RETURNING 1
    ) SELECT count(*) FROM gone
$$;
REVOKE EXECUTE ON FUNCTION revocations_forget FROM PUBLIC;
GRANT EXECUTE ON FUNCTION revocations_forget TO tg_app;
