-- The Evidence Locker: epochs of the ledger, what devices saw of it, keys of private fields.

-- A database that was restored from too old a backup goes on in a new epoch, which is a tree of its
-- own: what was signed before stays, and nobody can mistake one tree for the other.
ALTER TABLE ledger_entries ADD COLUMN epoch bigint NOT NULL DEFAULT 1 CHECK (epoch > 0);
ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_pkey, ADD PRIMARY KEY (epoch, leaf_index);
ALTER TABLE ledger_hashes ADD COLUMN epoch bigint NOT NULL DEFAULT 1 CHECK (epoch > 0);
ALTER TABLE ledger_hashes DROP CONSTRAINT ledger_hashes_pkey, ADD PRIMARY KEY (epoch, level, index);
ALTER TABLE ledger_checkpoints ADD COLUMN epoch bigint NOT NULL DEFAULT 1 CHECK (epoch > 0);
ALTER TABLE ledger_checkpoints DROP CONSTRAINT ledger_checkpoints_pkey,
    ADD PRIMARY KEY (epoch, tree_size);
-- An epoch is given, never assumed.
ALTER TABLE ledger_entries ALTER COLUMN epoch DROP DEFAULT;
ALTER TABLE ledger_hashes ALTER COLUMN epoch DROP DEFAULT;
ALTER TABLE ledger_checkpoints ALTER COLUMN epoch DROP DEFAULT;

ALTER TABLE agent_state ADD COLUMN ledger_epoch bigint;

-- Checkpoints that a device says it has seen and that this ledger cannot extend: one row each, and
-- one for each device, however often it says so.
CREATE TABLE ledger_forks (
    epoch     bigint NOT NULL,
    tree_size bigint NOT NULL,
    root_hash bytea NOT NULL CHECK (octet_length(root_hash) = 32),
    agent_id  uuid NOT NULL UNIQUE,
    reason    text NOT NULL CHECK (reason IN ('newer-epoch', 'larger', 'other-root')),
    seen_at   timestamptz NOT NULL,
    PRIMARY KEY (epoch, tree_size, root_hash)
);

-- Keys that private fields of entries are encrypted under, each of one subject and sealed to a
-- privacy key: whoever writes an entry needs no secret for it. Deleting the row is the erasure.
CREATE TABLE privacy_keys (
    kid        text COLLATE "C" PRIMARY KEY,
    public     bytea NOT NULL CHECK (octet_length(public) = 32),
    secret_id  text COLLATE "C" NOT NULL REFERENCES secrets,
    created_at timestamptz NOT NULL
);
CREATE TABLE subject_keys (
    kid          text COLLATE "C" PRIMARY KEY,
    subject_kind text COLLATE "C" NOT NULL,
    subject_id   text COLLATE "C" NOT NULL,
    privacy_kid  text COLLATE "C" NOT NULL REFERENCES privacy_keys,
    sealed       bytea NOT NULL,
    created_at   timestamptz NOT NULL
);
CREATE INDEX subject_keys_subject_idx ON subject_keys (subject_kind, subject_id);

GRANT SELECT ON platform TO tg_sequencer;
GRANT DELETE ON ledger_forks TO tg_app;
GRANT SELECT, INSERT ON ledger_forks, privacy_keys TO tg_app;
GRANT SELECT, INSERT, DELETE ON subject_keys TO tg_app;
