-- Sinks: where ledger entries are sent, how far each has come, and what none of them would take.

-- The cursor (epoch, next_index) is the first entry that the destination has not accepted.
CREATE TABLE sinks (
    id              uuid PRIMARY KEY,
    name            text COLLATE "C" NOT NULL UNIQUE,
    kind            text NOT NULL CHECK (kind IN ('splunk', 'datadog', 'webhook', 'syslog', 'file',
                        'stdout')),
    config          jsonb NOT NULL,
    private_fields  boolean NOT NULL,
    -- paused: by a person; stopped: by the exporter, until a person resumes it
    state           text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused', 'stopped')),
    -- rises with every change by a person: what was begun before it counts no more
    revision        bigint NOT NULL DEFAULT 1,
    -- 0: the kind has none; the one before signs too, until previous_until
    secret_version  integer NOT NULL DEFAULT 0,
    previous_until  timestamptz,

    epoch           bigint NOT NULL CHECK (epoch > 0),
    next_index      bigint NOT NULL CHECK (next_index >= 0),
    sent            bigint NOT NULL DEFAULT 0,
    last_sent_at    timestamptz,
    answer_status   integer,
    answer_text     text,
    answered_at     timestamptz,

    failures        integer NOT NULL DEFAULT 0,
    trouble_code    text,
    trouble_reason  text,
    trouble_since   timestamptz,
    retry_at        timestamptz,
    -- What the ledger has yet to be told: it is told of counts, now and then.
    spells          integer NOT NULL DEFAULT 0,
    spell_told      boolean NOT NULL DEFAULT false,
    failing_told_at timestamptz,
    dead_untold     integer NOT NULL DEFAULT 0,
    dead_told_at    timestamptz,
    gap_untold      bigint NOT NULL DEFAULT 0,
    gap_first       bigint,
    gap_last        bigint,
    gap_told_at     timestamptz,

    created_at      timestamptz NOT NULL,
    created_by      text NOT NULL,
    updated_at      timestamptz NOT NULL
);

CREATE TABLE sink_dead_letters (
    id                  uuid PRIMARY KEY,
    sink_id             uuid NOT NULL REFERENCES sinks ON DELETE CASCADE,
    epoch               bigint NOT NULL,
    leaf_index          bigint NOT NULL,
    event_type          text COLLATE "C" NOT NULL,
    code                text NOT NULL,
    reason              text NOT NULL,
    status              integer,
    answer              text NOT NULL,
    attempts            integer NOT NULL DEFAULT 1,
    dead_at             timestamptz NOT NULL,
    replay_requested_at timestamptz,
    UNIQUE (sink_id, epoch, leaf_index)
);
CREATE INDEX sink_dead_letters_page_idx ON sink_dead_letters (sink_id, id);
CREATE INDEX sink_dead_letters_replay_idx ON sink_dead_letters (sink_id, replay_requested_at)
    WHERE replay_requested_at IS NOT NULL;

ALTER TABLE stream_events DROP CONSTRAINT stream_events_kind_check,
    ADD CONSTRAINT stream_events_kind_check CHECK (kind IN ('agent', 'deployment', 'fleet',
        'package', 'release', 'approval', 'trust', 'ledger', 'overview', 'heartbeats', 'sink'));

GRANT SELECT, INSERT, UPDATE, DELETE ON sinks, sink_dead_letters TO tg_app;
