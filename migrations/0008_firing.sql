-- What fires when: the unit is the series. A pulse asks the index on next_at and nothing else.
ALTER TABLE series
    -- It belongs to the set in force.
    ADD COLUMN in_force      boolean NOT NULL DEFAULT false,
    -- When it first did; null = known from runs by hand or from manifests only.
    ADD COLUMN first_seen_at timestamptz,
    -- Every instant up to here has been decided: it has its row in fires.
    ADD COLUMN cursor_at     timestamptz,
    -- The first instant after cursor_at that its rules name; null = none, or not in force.
    ADD COLUMN next_at       timestamptz,
    ADD CONSTRAINT series_cursor_iff_seen CHECK ((first_seen_at IS NULL) = (cursor_at IS NULL)),
    ADD CONSTRAINT series_in_force_was_seen CHECK (NOT in_force OR first_seen_at IS NOT NULL),
    ADD CONSTRAINT series_next_after_cursor CHECK (next_at IS NULL OR (in_force AND next_at > cursor_at));

-- Serves the pulse: which series are due.
CREATE INDEX series_due ON series (next_at) WHERE next_at IS NOT NULL;

-- Version history of what a series' file and connection say of its instants: the rule in force at an instant decides it, also
-- when it is decided late.
CREATE TABLE series_rules (
    series_id  bigint NOT NULL,
    -- In force from here until the next version; the first one also before.
    from_at    timestamptz NOT NULL,
    -- crons, zone, window, week_start, paused: src/fire/rule.rs. Without crons it names no instant.
    rule       jsonb NOT NULL,
    applied_by text NOT NULL,
    CONSTRAINT series_rules_pkey PRIMARY KEY (series_id, from_at),
    CONSTRAINT series_rules_series_fkey FOREIGN KEY (series_id) REFERENCES series (id)
);

-- `pause` and `resume`: instants in [paused_at, resumed_at) do not fire.
CREATE TABLE series_pauses (
    series_id  bigint NOT NULL,
    paused_at  timestamptz NOT NULL,
    paused_by  text NOT NULL,
    reason     text NOT NULL,
    resumed_at timestamptz,
    resumed_by text,
    CONSTRAINT series_pauses_pkey PRIMARY KEY (series_id, paused_at),
    CONSTRAINT series_pauses_series_fkey FOREIGN KEY (series_id) REFERENCES series (id),
    CONSTRAINT series_pauses_resumed_iff_by CHECK ((resumed_at IS NULL) = (resumed_by IS NULL)),
    CONSTRAINT series_pauses_resumed_after CHECK (resumed_at >= paused_at)
);

CREATE UNIQUE INDEX series_pauses_one_open ON series_pauses (series_id) WHERE resumed_at IS NULL;

-- The ledger: one row for each instant that a schedule named, with what was decided.
CREATE TABLE fires (
    series_id    bigint NOT NULL,
    fire_at      timestamptz NOT NULL,
    -- fired = a run was made; covered = the window is held, or a live run works on it, or a newer instant stands for it
    -- (catch_up: latest); skipped = nothing to ask, or overlap: skip; missed = later than catch_up; paused.
    outcome      text NOT NULL,
    -- The run that was made or that covers it.
    run_id       uuid,
    window_start timestamptz,
    window_end   timestamptz,
    -- Why, for people; null where the outcome says it all.
    reason       text,
    decided_at   timestamptz NOT NULL DEFAULT reportd_now(),
    CONSTRAINT fires_pkey PRIMARY KEY (series_id, fire_at),
    CONSTRAINT fires_series_fkey FOREIGN KEY (series_id) REFERENCES series (id),
    CONSTRAINT fires_outcome_known CHECK (outcome IN ('fired', 'covered', 'skipped', 'missed', 'paused')),
    CONSTRAINT fires_fired_has_a_run CHECK (outcome <> 'fired' OR run_id IS NOT NULL),
    CONSTRAINT fires_window_whole CHECK ((window_start IS NULL) = (window_end IS NULL)),
    CONSTRAINT fires_window_not_empty CHECK (window_start < window_end)
);
