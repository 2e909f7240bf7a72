-- The first schema. Runs as tg_owner, who owns everything; tg_app may only what is granted at the end.

CREATE TABLE platform (
    singleton           boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    engine              text NOT NULL CHECK (engine IN ('native', 'timescale')),
    trust_domain        text,
    epoch               bigint NOT NULL DEFAULT 1,
    heartbeat_partition interval NOT NULL DEFAULT '1 day',
    heartbeat_retention interval NOT NULL DEFAULT '30 days',
    created_at          timestamptz NOT NULL DEFAULT now(),
    initialised_at      timestamptz
);

-- People and programs

CREATE TABLE users (
    id                  uuid PRIMARY KEY,
    email               text COLLATE "C" NOT NULL UNIQUE CHECK (email = lower(email)),
    name                text NOT NULL,
    role                text NOT NULL CHECK (role IN ('viewer', 'mlops', 'compliance', 'admin')),
    password_hash       text NOT NULL,
    password_changed_at timestamptz NOT NULL,
    created_at          timestamptz NOT NULL,
    created_by          text,
    disabled_at         timestamptz
);

CREATE TABLE sessions (
    id_sha256    bytea PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    created_at   timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL
);
CREATE INDEX sessions_user_id_idx ON sessions (user_id);

CREATE TABLE api_keys (
    id            uuid PRIMARY KEY,
    name          text COLLATE "C" NOT NULL,
    secret_sha256 bytea NOT NULL UNIQUE,
    role          text NOT NULL CHECK (role IN ('viewer', 'mlops', 'compliance', 'admin')),
    created_at    timestamptz NOT NULL,
    created_by    text NOT NULL,
    expires_at    timestamptz,
    revoked_at    timestamptz,
    last_used_at  timestamptz
);

CREATE TABLE idempotency_keys (
    actor          text NOT NULL,
    key            text NOT NULL,
    request_sha256 bytea NOT NULL,
    status         integer NOT NULL,
    response       bytea NOT NULL,
    created_at     timestamptz NOT NULL,
    PRIMARY KEY (actor, key)
);

-- Keys and trust

CREATE TABLE secrets (
    id          text COLLATE "C" PRIMARY KEY,
    purpose     text NOT NULL,
    owner       text NOT NULL,
    provider    text NOT NULL,
    key_id      text NOT NULL,
    key_version text NOT NULL,
    wrapped     bytea NOT NULL,
    nonce       bytea NOT NULL,
    ciphertext  bytea NOT NULL,
    context     bytea NOT NULL,
    created_at  timestamptz NOT NULL,
    rewrapped_at timestamptz
);

CREATE TABLE ca_certificates (
    spki_sha256 bytea PRIMARY KEY,
    certificate text NOT NULL,
    secret_id   text NOT NULL REFERENCES secrets,
    not_before  timestamptz NOT NULL,
    not_after   timestamptz NOT NULL,
    state       text NOT NULL CHECK (state IN ('trusted', 'issuing', 'retired'))
);

CREATE TABLE signing_keys (
    kid        text COLLATE "C" PRIMARY KEY,
    purpose    text NOT NULL CHECK (purpose IN ('desired', 'grant', 'command', 'config', 'ledger')),
    public     bytea NOT NULL,
    secret_id  text NOT NULL REFERENCES secrets,
    not_before timestamptz NOT NULL,
    not_after  timestamptz NOT NULL,
    state      text NOT NULL CHECK (state IN ('announced', 'signing', 'retired'))
);

CREATE TABLE trust_bundles (
    version    bigint PRIMARY KEY,
    envelope   bytea NOT NULL,
    issued_at  timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE TABLE publishers (
    kid        text COLLATE "C" PRIMARY KEY,
    name       text COLLATE "C" NOT NULL,
    alg        text NOT NULL CHECK (alg = 'ed25519'),
    public     bytea NOT NULL,
    names      text[] NOT NULL,
    not_after  timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    revoked_at timestamptz
);

-- Fleets and agents

CREATE TABLE fleets (
    slug       text COLLATE "C" PRIMARY KEY,
    name       text NOT NULL,
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    revision   bigint NOT NULL DEFAULT 1
);

CREATE TABLE fleet_configs (
    fleet                text COLLATE "C" PRIMARY KEY REFERENCES fleets,
    epoch                bigint NOT NULL,
    revision             bigint NOT NULL,
    heartbeat_interval_s integer NOT NULL CHECK (heartbeat_interval_s BETWEEN 1 AND 3600),
    envelope             bytea NOT NULL,
    issued_at            timestamptz NOT NULL,
    expires_at           timestamptz NOT NULL
);

CREATE TABLE enrollment_tokens (
    id            uuid PRIMARY KEY,
    fleet         text COLLATE "C" NOT NULL REFERENCES fleets,
    secret_sha256 bytea NOT NULL UNIQUE,
    tags          jsonb NOT NULL,
    approval      text NOT NULL CHECK (approval IN ('auto', 'manual')),
    cidr          cidr,
    max_uses      integer NOT NULL CHECK (max_uses > 0),
    uses_left     integer NOT NULL CHECK (uses_left BETWEEN 0 AND max_uses),
    expires_at    timestamptz NOT NULL,
    created_at    timestamptz NOT NULL,
    created_by    text NOT NULL,
    revoked_at    timestamptz
);
CREATE INDEX enrollment_tokens_fleet_idx ON enrollment_tokens (fleet, id);

CREATE TABLE agents (
    id                  uuid PRIMARY KEY,
    fleet               text COLLATE "C" NOT NULL REFERENCES fleets,
    name                text COLLATE "C" NOT NULL,
    tags                jsonb NOT NULL,
    facts               jsonb NOT NULL,
    status              text NOT NULL CHECK (status IN ('pending', 'active', 'rejected', 'revoked')),
    status_reason       text,
    enrolled_by         text NOT NULL CHECK (enrolled_by IN ('token', 'mtls')),
    token_id            uuid REFERENCES enrollment_tokens,
    enrolled_spki_sha256 bytea NOT NULL,
    encryption_key      bytea NOT NULL CHECK (octet_length(encryption_key) = 32),
    created_at          timestamptz NOT NULL,
    enrolled_at         timestamptz,
    revoked_at          timestamptz,
    revision            bigint NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX agents_enrolled_spki_key ON agents (enrolled_spki_sha256);
CREATE UNIQUE INDEX agents_encryption_key_key ON agents (encryption_key);
CREATE INDEX agents_fleet_idx ON agents (fleet, id);
CREATE INDEX agents_name_idx ON agents (name, id);

CREATE TABLE certificates (
    serial             text COLLATE "C" PRIMARY KEY,
    agent_id           uuid NOT NULL REFERENCES agents,
    spki_sha256        bytea NOT NULL,
    certificate        text NOT NULL,
    not_before         timestamptz NOT NULL,
    not_after          timestamptz NOT NULL,
    issued_at          timestamptz NOT NULL,
    first_connected_at timestamptz,
    superseded_at      timestamptz
);
CREATE INDEX certificates_agent_id_idx ON certificates (agent_id, issued_at);
CREATE INDEX certificates_spki_idx ON certificates (spki_sha256);

-- The hot row: written by every heartbeat. Primary key only, so that every update is a HOT update.
CREATE TABLE agent_state (
    agent_id         uuid PRIMARY KEY,
    boot_id          uuid,
    boot_count       bigint NOT NULL DEFAULT -1,
    seq              bigint NOT NULL DEFAULT -1,
    received_at      timestamptz,
    sent_at          timestamptz,
    late_after       timestamptz,
    offline_after    timestamptz,
    status           text,
    cpu_percent      real,
    memory_percent   real,
    disk_percent     real,
    temperature_c    real,
    accelerators     jsonb,
    metrics          jsonb,
    package_name     text,
    package_version  text,
    package_digest   bytea,
    agent_version    text,
    desired_epoch    bigint,
    desired_revision bigint,
    config_revision  bigint,
    trust_version    bigint,
    ledger_size      bigint,
    ledger_root      bytea
) WITH (fillfactor = 50);

-- Written on transition only, by the presence sweeper and the trust evaluator.
CREATE TABLE agent_status (
    agent_id        uuid PRIMARY KEY,
    presence        text NOT NULL CHECK (presence IN ('never', 'online', 'late', 'offline')),
    presence_since  timestamptz NOT NULL,
    front_id        text,
    connected_at    timestamptz,
    disconnected_at timestamptz,
    trust_score     smallint NOT NULL DEFAULT 100 CHECK (trust_score BETWEEN 0 AND 100),
    trust_since     timestamptz,
    running_digest  bytea,
    running_since   timestamptz
);
CREATE INDEX agent_status_presence_idx ON agent_status (presence, agent_id);
CREATE INDEX agent_status_trust_idx ON agent_status (trust_score, agent_id);
CREATE INDEX agent_status_running_idx ON agent_status (running_digest, agent_id);

-- Where each outbox stands: everything up to `through` is committed.
CREATE TABLE agent_logs (
    agent_id  uuid NOT NULL,
    log_id    uuid NOT NULL,
    through   bigint NOT NULL,
    opened_at timestamptz NOT NULL,
    PRIMARY KEY (agent_id, log_id)
) WITH (fillfactor = 70);

CREATE TABLE agent_events (
    agent_id       uuid NOT NULL,
    log_id         uuid NOT NULL,
    number         bigint NOT NULL,
    payload_sha256 bytea NOT NULL,
    event_id       uuid,  -- null: the excess of a flood, told by one agent.flooding entry
    received_at    timestamptz NOT NULL,
    PRIMARY KEY (agent_id, log_id, number)
);

-- How many events an agent may still report (a token bucket and a day's count), and the excess that
-- has not yet become an agent.flooding entry: how many, since when, and a running SHA-256 over them.
CREATE TABLE agent_event_budgets (
    agent_id     uuid PRIMARY KEY,
    tokens       double precision NOT NULL,
    refilled_at  timestamptz NOT NULL,
    day          date NOT NULL,
    day_count    integer NOT NULL,
    excess       bigint NOT NULL DEFAULT 0,
    excess_since timestamptz,
    excess_sha256 bytea
) WITH (fillfactor = 70);
CREATE INDEX agent_event_budgets_excess_idx ON agent_event_budgets (excess_since) WHERE excess > 0;

-- Answers to key-request and csr: the same request gets the same answer.
CREATE TABLE agent_requests (
    agent_id       uuid NOT NULL,
    request_id     uuid NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('key-request', 'csr')),
    request_sha256 bytea NOT NULL,
    outcome        text NOT NULL,
    envelope       bytea NOT NULL,
    answered_at    timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    PRIMARY KEY (agent_id, request_id)
);

CREATE TABLE commands (
    id          uuid PRIMARY KEY,
    agent_id    uuid NOT NULL REFERENCES agents,
    kind        text NOT NULL,
    arguments   jsonb NOT NULL,
    state       text NOT NULL
        CHECK (state IN ('queued', 'sent', 'acknowledged', 'done', 'failed', 'expired', 'refused')),
    result      jsonb,
    envelope    bytea,
    created_at  timestamptz NOT NULL,
    created_by  text NOT NULL,
    expires_at  timestamptz NOT NULL,
    sent_at     timestamptz,
    finished_at timestamptz
);
CREATE INDEX commands_agent_idx ON commands (agent_id, id);

CREATE TABLE dead_letters (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_id       uuid,
    topic          text NOT NULL,
    payload        bytea NOT NULL CHECK (octet_length(payload) <= 4096),
    payload_bytes  bigint NOT NULL,
    payload_sha256 bytea NOT NULL,
    code           text NOT NULL,
    reason         text NOT NULL,
    received_at    timestamptz NOT NULL
);
CREATE INDEX dead_letters_agent_idx ON dead_letters (agent_id, id);

-- Kill switch

CREATE TABLE revocations (
    seq        bigint PRIMARY KEY,
    agent_id   uuid,
    serial     text,
    reason     text NOT NULL,
    revoked_at timestamptz NOT NULL,
    revoked_by text NOT NULL,
    CHECK ((agent_id IS NULL) <> (serial IS NULL))
);
CREATE INDEX revocations_agent_idx ON revocations (agent_id);
CREATE SEQUENCE revocations_seq OWNED BY revocations.seq;

-- Fronts poll `seq > applied`: a seq that commits after a higher one would never be seen. The lock is
-- held until commit, so that numbers become visible in order.
CREATE FUNCTION revocations_number() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7290413);
    NEW.seq := nextval('public.revocations_seq');
    PERFORM pg_notify('tg_revocations', NEW.seq::text);
    RETURN NEW;
END $$;
CREATE TRIGGER revocations_number BEFORE INSERT ON revocations
    FOR EACH ROW EXECUTE FUNCTION revocations_number();

CREATE TABLE broker_fronts (
    id          text COLLATE "C" PRIMARY KEY,
    address     text NOT NULL,
    started_at  timestamptz NOT NULL,
    lease_until timestamptz NOT NULL,
    applied_seq bigint NOT NULL
);

-- What each front did about each revocation: the kill switch's receipt.
CREATE TABLE revocation_receipts (
    seq             bigint NOT NULL REFERENCES revocations,
    front_id        text NOT NULL,
    denied_at       timestamptz NOT NULL,
    disconnected    integer NOT NULL,
    disconnected_at timestamptz,
    PRIMARY KEY (seq, front_id)
);

-- Packages, releases, deployments

CREATE TABLE packages (
    digest        bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    name          text COLLATE "C" NOT NULL,
    version       text COLLATE "C" NOT NULL,
    seq           bigint NOT NULL CHECK (seq > 0),
    publisher_kid text NOT NULL REFERENCES publishers,
    manifest      bytea NOT NULL,
    size_bytes    bigint NOT NULL,
    file_sha256   bytea NOT NULL,
    store_key     text NOT NULL,
    dek_secret_id text NOT NULL REFERENCES secrets,
    not_before    timestamptz NOT NULL,
    not_after     timestamptz,
    uploaded_at   timestamptz NOT NULL,
    uploaded_by   text NOT NULL,
    withdrawn_at  timestamptz,
    UNIQUE (name, seq)
);
CREATE INDEX packages_uploaded_idx ON packages (uploaded_at, digest);

CREATE TABLE releases (
    id             uuid PRIMARY KEY,
    name           text COLLATE "C" NOT NULL,
    version        text COLLATE "C" NOT NULL,
    package_digest bytea NOT NULL REFERENCES packages,
    notes          text NOT NULL,
    created_at     timestamptz NOT NULL,
    created_by     text NOT NULL,
    withdrawn_at   timestamptz,
    UNIQUE (name, version)
);

CREATE TABLE deployments (
    id           uuid PRIMARY KEY,
    release_id   uuid NOT NULL REFERENCES releases,
    fleets       text[] NOT NULL CHECK (cardinality(fleets) > 0),
    selector     text NOT NULL,
    strategy     jsonb NOT NULL,
    state        text NOT NULL CHECK (state IN ('draft', 'awaiting_approval', 'scheduled', 'running',
                     'paused', 'completed', 'aborted', 'rolling_back', 'rolled_back')),
    state_reason text NOT NULL DEFAULT '',
    salt         bytea NOT NULL CHECK (octet_length(salt) = 16),
    stage        integer NOT NULL DEFAULT 0,
    revision     bigint NOT NULL DEFAULT 1,
    created_at   timestamptz NOT NULL,
    created_by   text NOT NULL,
    started_at   timestamptz,
    finished_at  timestamptz
);
CREATE INDEX deployments_state_idx ON deployments (state, id);

CREATE TABLE deployment_stages (
    deployment_id uuid NOT NULL REFERENCES deployments,
    stage         integer NOT NULL,
    percent       integer NOT NULL CHECK (percent BETWEEN 1 AND 100),
    cutoff        bytea CHECK (octet_length(cutoff) = 32),
    agents        integer,
    gate          jsonb,
    held_since    timestamptz,
    started_at    timestamptz,
    finished_at   timestamptz,
    PRIMARY KEY (deployment_id, stage)
);

CREATE TABLE deployment_agents (
    deployment_id   uuid NOT NULL REFERENCES deployments,
    agent_id        uuid NOT NULL REFERENCES agents,
    stage           integer NOT NULL,
    state           text NOT NULL CHECK (state IN ('pending', 'notified', 'downloading', 'verifying',
                        'activating', 'succeeded', 'failed', 'rejected', 'timed_out', 'lost',
                        'superseded', 'already_installed', 'excluded')),
    reason          text NOT NULL DEFAULT '',
    percent         smallint,
    attempts        integer NOT NULL DEFAULT 0,
    previous_digest bytea,
    notified_at     timestamptz,
    started_at      timestamptz,
    finished_at     timestamptz,
    updated_at      timestamptz NOT NULL,
    PRIMARY KEY (deployment_id, agent_id)
) WITH (fillfactor = 70);
CREATE INDEX deployment_agents_agent_idx ON deployment_agents (agent_id);

-- The signed desired document of each agent, re-sent byte-identical until shortly before it expires.
CREATE TABLE agent_desired (
    agent_id       uuid PRIMARY KEY REFERENCES agents,
    deployment_id  uuid REFERENCES deployments,
    package_digest bytea REFERENCES packages,
    epoch          bigint NOT NULL,
    revision       bigint NOT NULL,
    document       bytea NOT NULL,
    envelope       bytea NOT NULL,
    issued_at      timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    sent_at        timestamptz  -- null: the outbox has not handed this revision to a front yet
) WITH (fillfactor = 70);
CREATE INDEX agent_desired_unsent_idx ON agent_desired (agent_id) WHERE sent_at IS NULL;

-- Live events: "something changed" hints for whoever watches, kept for a few minutes.

-- Ids and times are given before the commit: a reader that remembers the last one loses whatever
-- commits later with a smaller one, and to number them at the commit would serialise all writers.
-- So a row names its transaction, and a reader remembers a snapshot: what that does not show is new.
CREATE TABLE stream_events (
    id         bigint GENERATED ALWAYS AS IDENTITY,
    xact       bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    kind       text NOT NULL CHECK (kind IN ('agent', 'deployment', 'fleet', 'package', 'release',
                   'ledger', 'overview', 'heartbeats')),
    subject_id text,  -- null: any number of them
    fleet      text COLLATE "C",
    count      bigint,
    at         timestamptz NOT NULL,
    PRIMARY KEY (xact, id)
);
-- From the oldest row on nothing is missing: there always is one.
INSERT INTO stream_events (kind, at) VALUES ('overview', now());

-- Evidence Locker

CREATE TABLE ledger_events (
    id           uuid PRIMARY KEY,
    entry        bytea NOT NULL CHECK (octet_length(entry) <= 65536),
    time         timestamptz NOT NULL,
    type         text COLLATE "C" NOT NULL,
    actor_kind   text COLLATE "C" NOT NULL,
    actor_id     text COLLATE "C" NOT NULL,
    subject_kind text COLLATE "C" NOT NULL,
    subject_id   text COLLATE "C" NOT NULL,
    fleet        text COLLATE "C",
    outcome      text COLLATE "C" NOT NULL
);
CREATE INDEX ledger_events_time_idx ON ledger_events (time, id);
CREATE INDEX ledger_events_type_idx ON ledger_events (type, id);
CREATE INDEX ledger_events_subject_idx ON ledger_events (subject_id, id);

CREATE TABLE ledger_unsequenced (
    event_id uuid PRIMARY KEY
);

CREATE TABLE ledger_entries (
    leaf_index bigint PRIMARY KEY CHECK (leaf_index >= 0),
    event_id   uuid NOT NULL UNIQUE,
    leaf_hash  bytea NOT NULL CHECK (octet_length(leaf_hash) = 32)
);

-- Roots of complete subtrees: node (level, index) covers the leaves [index * 2^level, (index + 1) * 2^level).
CREATE TABLE ledger_hashes (
    level smallint NOT NULL CHECK (level > 0),
    index bigint NOT NULL CHECK (index >= 0),
    hash  bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (level, index)
);

CREATE TABLE ledger_checkpoints (
    tree_size bigint PRIMARY KEY CHECK (tree_size >= 0),
    root_hash bytea NOT NULL CHECK (octet_length(root_hash) = 32),
    note      text NOT NULL,
    signed_at timestamptz NOT NULL
);

CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;
DO $$
DECLARE ledger_table text;
BEGIN
    FOREACH ledger_table IN ARRAY ARRAY['ledger_events', 'ledger_entries', 'ledger_hashes', 'ledger_checkpoints'] LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I
                        FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()', ledger_table);
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER append_only', ledger_table);
    END LOOP;
END $$;

-- Who may what: deny by default, then one line each.

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO tg_app, tg_sequencer;
GRANT SELECT ON platform TO tg_app;
GRANT UPDATE (trust_domain, epoch, initialised_at) ON platform TO tg_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    users, sessions, api_keys, idempotency_keys, secrets, ca_certificates, signing_keys, publishers,
    fleets, fleet_configs, enrollment_tokens, agents, certificates, agent_state, agent_status,
    agent_logs, agent_events, agent_event_budgets, agent_requests, commands, dead_letters,
    broker_fronts, revocation_receipts, packages, releases, deployments, deployment_stages,
    deployment_agents, agent_desired
    TO tg_app;
GRANT SELECT, INSERT, DELETE ON stream_events TO tg_app;
GRANT INSERT ON stream_events TO tg_sequencer;
-- An agent id, once revoked, is never used again; a trust bundle, once published, never changes.
GRANT SELECT, INSERT ON revocations, trust_bundles, ledger_events, ledger_unsequenced TO tg_app;
GRANT SELECT ON ledger_entries, ledger_hashes, ledger_checkpoints TO tg_app;
GRANT SELECT ON ledger_events TO tg_sequencer;
GRANT SELECT, DELETE ON ledger_unsequenced TO tg_sequencer;
GRANT SELECT, INSERT ON ledger_entries, ledger_hashes, ledger_checkpoints TO tg_sequencer;
GRANT SELECT ON alembic_version TO tg_app;
