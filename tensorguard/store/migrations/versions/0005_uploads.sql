-- Uploads of packages that go on where they were cut, on whichever api host is asked next.

-- How much of an upload has come is known to the package store alone. Whoever writes to it or
-- verifies it holds the lease. `code`, `message` and `hint`: why it was refused, or what its
-- verification waits for. Every row ends: expires_at moves on only while bytes come.
CREATE TABLE package_uploads (
    id              uuid PRIMARY KEY,
    length_bytes    bigint CHECK (length_bytes >= 0),
    metadata        text NOT NULL,
    state           text NOT NULL CHECK (state IN ('receiving', 'verifying', 'done', 'refused')),
    store_handle    text,
    writer          uuid,
    lease_until     timestamptz,
    attempts        integer NOT NULL DEFAULT 0,
    verified_bytes  bigint NOT NULL DEFAULT 0,
    code            text,
    message         text,
    hint            text,
    package_digest  bytea REFERENCES packages,
    created_at      timestamptz NOT NULL,
    created_by      text NOT NULL,
    created_by_kind text NOT NULL,
    expires_at      timestamptz NOT NULL,
    CHECK (length_bytes IS NOT NULL OR state = 'receiving'),
    CHECK ((state = 'done') = (package_digest IS NOT NULL)),
    CHECK (state <> 'refused' OR code IS NOT NULL)
);

GRANT SELECT, INSERT, UPDATE, DELETE ON package_uploads TO tg_app;
