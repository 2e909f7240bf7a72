-- Publishers: from when they count, whom they follow, and which trust bundle says so.

-- `told_in` is the first trust bundle that says of a publisher what its row says: that names it with
-- these names and this validity or, once it is revoked, that leaves it out. None: no bundle yet.
ALTER TABLE publishers
    ADD COLUMN not_before     timestamptz,
    ADD COLUMN succeeds       text COLLATE "C" REFERENCES publishers,
    ADD COLUMN revoked_reason text,
    ADD COLUMN told_in        bigint REFERENCES trust_bundles;

-- Until now a publisher's names and validity never changed.
WITH named AS (
    SELECT bundle.version, one ->> 'kid' AS kid
    FROM trust_bundles AS bundle
    CROSS JOIN LATERAL json_array_elements(
        convert_from(
            decode(convert_from(bundle.envelope, 'UTF8')::json ->> 'payload', 'base64'), 'UTF8'
        )::json -> 'publishers'
    ) AS one
), told AS (
    SELECT kid, min(version) AS first, max(version) AS last FROM named GROUP BY kid
)
UPDATE publishers SET
    not_before = same.created_at,
    told_in = CASE WHEN same.revoked_at IS NULL THEN told.first
                   ELSE (SELECT min(version) FROM trust_bundles
                         WHERE version > coalesce(told.last, 0)) END
FROM publishers AS same LEFT JOIN told USING (kid)
WHERE same.kid = publishers.kid;

ALTER TABLE publishers
    ALTER COLUMN not_before SET NOT NULL,
    ADD CONSTRAINT publishers_validity_check CHECK (not_before < not_after);
CREATE UNIQUE INDEX publishers_successor_key ON publishers (succeeds) WHERE revoked_at IS NULL;
CREATE INDEX packages_publisher_idx ON packages (publisher_kid, uploaded_at);
