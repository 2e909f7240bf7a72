-- The key vault: which KEKs there are, which version wraps what, and the jobs that rewrap.

-- A KEK: a key in a provider, of the platform (no fleet) or brought for one fleet. The key itself is
-- never here. What checked_at found is told by key_state, and why it fails by trouble_*.
CREATE TABLE keks (
    id             uuid PRIMARY KEY,
    fleet          text COLLATE "C" REFERENCES fleets,
    provider       text NOT NULL CHECK (provider IN ('local', 'aws', 'azure', 'gcp')),
    key_id         text COLLATE "C" NOT NULL,
    origin         text NOT NULL CHECK (origin IN ('platform', 'reference', 'imported')),
    state          text NOT NULL CHECK (state IN ('active', 'former', 'retired')),
    key_version    text,
    key_state      text NOT NULL DEFAULT 'enabled'
                   CHECK (key_state IN ('enabled', 'disabled', 'pending-deletion',
                                        'pending-import')),
    expires_at     timestamptz,
    expiry_told_at timestamptz,
    checked_at     timestamptz,
    trouble_code   text,
    trouble_reason text,
    trouble_since  timestamptz,
    created_at     timestamptz NOT NULL,
    created_by     text NOT NULL,
    retired_at     timestamptz,
    CHECK ((trouble_code IS NULL) = (trouble_since IS NULL))
);
CREATE UNIQUE INDEX keks_active_key ON keks (coalesce(fleet, '')) WHERE state = 'active';
CREATE UNIQUE INDEX keks_reference_key ON keks (provider, key_id, coalesce(fleet, ''))
    WHERE state <> 'retired';

-- Versions of a KEK that were seen in its provider.
CREATE TABLE kek_versions (
    kek_id        uuid NOT NULL REFERENCES keks,
    version       text COLLATE "C" NOT NULL,
    state         text NOT NULL CHECK (state IN ('enabled', 'disabled', 'destroyed')),
    first_seen_at timestamptz NOT NULL,
    changed_at    timestamptz,
    PRIMARY KEY (kek_id, version)
);

-- Which fleet's KEK a secret is under; none: the platform's.
ALTER TABLE secrets ADD COLUMN fleet text COLLATE "C" REFERENCES fleets;
CREATE INDEX secrets_kek_idx ON secrets (provider, key_id, key_version);

-- Moves secrets under the present version of a KEK. One at a time for a KEK, by whoever holds the
-- lease; `after` is the last secret that this pass has looked at.
CREATE TABLE rewrap_jobs (
    id              uuid PRIMARY KEY,
    kek_id          uuid NOT NULL REFERENCES keks,
    kind            text NOT NULL CHECK (kind IN ('rewrap', 'migrate')),
    state           text NOT NULL CHECK (state IN ('running', 'done', 'failed')),
    per_second      integer NOT NULL CHECK (per_second > 0),
    total           bigint NOT NULL,
    moved           bigint NOT NULL DEFAULT 0,
    failed          bigint NOT NULL DEFAULT 0,
    after           text COLLATE "C" NOT NULL DEFAULT '',
    code            text,
    reason          text,
    retry_at        timestamptz,
    worker          text,
    lease_until     timestamptz,
    created_at      timestamptz NOT NULL,
    created_by      text NOT NULL,
    created_by_kind text NOT NULL,
    updated_at      timestamptz NOT NULL,
    finished_at     timestamptz
);
CREATE UNIQUE INDEX rewrap_jobs_running_key ON rewrap_jobs (kek_id) WHERE state = 'running';
CREATE INDEX rewrap_jobs_kek_idx ON rewrap_jobs (kek_id, created_at);

-- A platform that there is already has its KEK, under which its secrets are.
INSERT INTO keks (id, provider, key_id, origin, state, created_at, created_by)
SELECT gen_random_uuid(), provider, key_id, 'platform', 'active', min(created_at), 'platform'
FROM secrets GROUP BY provider, key_id;
INSERT INTO kek_versions (kek_id, version, state, first_seen_at)
SELECT keks.id, secrets.key_version, 'enabled', min(secrets.created_at)
FROM keks JOIN secrets USING (provider, key_id) GROUP BY keks.id, secrets.key_version;

GRANT SELECT, INSERT, UPDATE, DELETE ON keks, kek_versions, rewrap_jobs TO tg_app;
