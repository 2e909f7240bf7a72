-- Identity: manufacturer CAs, release, moves, recovery, second persons and their second factor.

-- CAs of device makers: a device that shows a certificate of one may enrol into its fleet.
CREATE TABLE manufacturer_cas (
    id                   uuid PRIMARY KEY,
    fleet                text COLLATE "C" NOT NULL REFERENCES fleets,
    name                 text NOT NULL,
    certificate          text NOT NULL,
    spki_sha256          bytea NOT NULL CHECK (octet_length(spki_sha256) = 32),
    approval             text NOT NULL CHECK (approval IN ('auto', 'manual')),
    serials              text[],
    tags                 jsonb NOT NULL,
    max_agents           integer NOT NULL CHECK (max_agents > 0),
    state                text NOT NULL CHECK (state IN ('unproven', 'active', 'revoked')),
    challenge            text NOT NULL,
    challenge_expires_at timestamptz NOT NULL,
    not_after            timestamptz NOT NULL,
    created_at           timestamptz NOT NULL,
    created_by           text NOT NULL,
    activated_at         timestamptz,
    revoked_at           timestamptz
);
CREATE INDEX manufacturer_cas_fleet_idx ON manufacturer_cas (fleet, id);
CREATE UNIQUE INDEX manufacturer_cas_active_key ON manufacturer_cas (spki_sha256)
    WHERE state = 'active';
CREATE FUNCTION tell_manufacturers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tg_manufacturers', NEW.id::text);
    RETURN NULL;
END $$;
CREATE TRIGGER manufacturer_cas_told AFTER INSERT OR UPDATE OF state ON manufacturer_cas
    FOR EACH ROW EXECUTE FUNCTION tell_manufacturers();

-- A device enrols once by each of its keys and by (issuer, serial number), until an operator
-- releases the agent that it was.
ALTER TABLE agents
    ADD COLUMN manufacturer_ca_id uuid REFERENCES manufacturer_cas,
    ADD COLUMN device_issuer_spki_sha256 bytea,
    ADD COLUMN device_serial text COLLATE "C",
    ADD COLUMN released_at timestamptz,
    ADD COLUMN move_to text COLLATE "C" REFERENCES fleets;
DROP INDEX agents_enrolled_spki_key;
DROP INDEX agents_encryption_key_key;
CREATE UNIQUE INDEX agents_enrolled_spki_key ON agents (enrolled_spki_sha256)
    WHERE released_at IS NULL;
CREATE UNIQUE INDEX agents_encryption_key_key ON agents (encryption_key)
    WHERE released_at IS NULL;
CREATE UNIQUE INDEX agents_device_serial_key ON agents (device_issuer_spki_sha256, device_serial)
    WHERE released_at IS NULL;
-- Asked at every heartbeat; those who are on their way are few.
CREATE INDEX agents_moving_idx ON agents (id) WHERE move_to IS NOT NULL;
CREATE INDEX agents_manufacturer_idx ON agents (manufacturer_ca_id) WHERE released_at IS NULL;
CREATE INDEX agents_pending_idx ON agents (created_at, id) WHERE status = 'pending';
CREATE INDEX agents_pending_token_idx ON agents (token_id) WHERE status = 'pending';

-- Which CA issued: what a CA's retirement waits for.
ALTER TABLE certificates ADD COLUMN authority_key_id bytea;
ALTER TABLE ca_certificates ADD COLUMN subject_key_id bytea;
-- Those of an agent that are still good: one, or two while it renews.
CREATE INDEX certificates_live_idx ON certificates (agent_id, issued_at)
    WHERE superseded_at IS NULL;

-- An agent that was off past its certificate's end asks to come back, with a new key.
CREATE TABLE recoveries (
    id           uuid PRIMARY KEY,
    agent_id     uuid NOT NULL REFERENCES agents,
    serial       text COLLATE "C" NOT NULL REFERENCES certificates,
    csr          text NOT NULL,
    spki_sha256  bytea NOT NULL,
    peer         text NOT NULL,
    state        text NOT NULL CHECK (state IN ('pending', 'approved', 'rejected', 'expired')),
    reason       text,
    requested_at timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    decided_at   timestamptz,
    decided_by   text,
    issued       text COLLATE "C" REFERENCES certificates
);
CREATE UNIQUE INDEX recoveries_pending_key ON recoveries (agent_id) WHERE state = 'pending';
CREATE INDEX recoveries_requested_idx ON recoveries (requested_at, id);

-- What only a second person makes happen: exactly `request`, once.
CREATE TABLE approvals (
    id             uuid PRIMARY KEY,
    kind           text NOT NULL,
    fleet          text COLLATE "C",
    request        jsonb NOT NULL,
    request_sha256 bytea NOT NULL CHECK (octet_length(request_sha256) = 32),
    state          text NOT NULL CHECK (state IN ('pending', 'approved', 'rejected', 'expired', 'failed')),
    requested_at   timestamptz NOT NULL,
    requested_by   text NOT NULL,
    requested_by_kind text NOT NULL CHECK (requested_by_kind IN ('user', 'api-key', 'system')),
    expires_at     timestamptz NOT NULL,
    decided_at     timestamptz,
    decided_by     text,
    reason         text,
    result         jsonb
);
CREATE UNIQUE INDEX approvals_pending_key ON approvals (requested_by, request_sha256)
    WHERE state = 'pending';
CREATE INDEX approvals_requested_idx ON approvals (requested_at, id);
ALTER TABLE stream_events DROP CONSTRAINT stream_events_kind_check,
    ADD CONSTRAINT stream_events_kind_check CHECK (kind IN ('agent', 'deployment', 'fleet',
        'package', 'release', 'approval', 'trust', 'ledger', 'overview', 'heartbeats'));

ALTER TABLE users
    ADD COLUMN password_reset_by text,
    ADD COLUMN totp_secret_id text COLLATE "C" REFERENCES secrets,
    ADD COLUMN totp_confirmed_at timestamptz,
    ADD COLUMN totp_step bigint NOT NULL DEFAULT 0,
    ADD COLUMN totp_reset_at timestamptz,
    ADD COLUMN totp_reset_by text;
ALTER TABLE sessions ADD COLUMN stepped_up_until timestamptz;

-- The kill switch for a fleet: its agents' revocations have the numbers first_seq to last_seq.
CREATE TABLE fleet_revocations (
    id          uuid PRIMARY KEY,
    fleet       text COLLATE "C" NOT NULL REFERENCES fleets,
    reason      text NOT NULL,
    agents      integer NOT NULL,
    first_seq   bigint,
    last_seq    bigint,
    revoked_at  timestamptz NOT NULL,
    revoked_by  text NOT NULL,
    approved_by text
);
CREATE INDEX fleet_revocations_fleet_idx ON fleet_revocations (fleet, id);

-- Revocations whose receipt is not complete in the ledger: an agent's, or a fleet's by its last.
CREATE TABLE revocations_unconfirmed (
    seq                 bigint PRIMARY KEY REFERENCES revocations,
    fleet_revocation_id uuid REFERENCES fleet_revocations,
    told_partial_at     timestamptz
);
INSERT INTO revocations_unconfirmed (seq)
    SELECT seq FROM revocations r WHERE agent_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM ledger_events e
        WHERE e.type = 'agent.revocation-confirmed' AND e.subject_id = r.agent_id::text);
-- What one person has revoked lately.
CREATE INDEX revocations_revoked_at_idx ON revocations (revoked_at);

-- Without a payload: the 10,000 revocations of a fleet wake each front once, not 10,000 times.
CREATE OR REPLACE FUNCTION revocations_number() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7290413);
    NEW.seq := nextval('public.revocations_seq');
    PERFORM pg_notify('tg_revocations', '');
    RETURN NEW;
END $$;

-- Services that hold no CA key ask those that do for their certificate.
CREATE TABLE service_certificates (
    id           uuid PRIMARY KEY,
    service      text NOT NULL CHECK (service IN ('broker')),
    instance     text COLLATE "C" NOT NULL,
    csr          text NOT NULL,
    hosts        text[] NOT NULL,
    requested_at timestamptz NOT NULL,
    certificate  text,
    refusal      text,
    answered_at  timestamptz
);
CREATE INDEX service_certificates_instance_idx
    ON service_certificates (service, instance, requested_at);
CREATE INDEX service_certificates_open_idx ON service_certificates (requested_at)
    WHERE answered_at IS NULL;

GRANT SELECT, INSERT, UPDATE, DELETE ON
    manufacturer_cas, recoveries, approvals, service_certificates, revocations_unconfirmed TO tg_app;
GRANT SELECT, INSERT ON fleet_revocations TO tg_app;
