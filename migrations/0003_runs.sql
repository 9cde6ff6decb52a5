-- The work for one window of one series, and its life. The transition table is src/run/state.rs; the constraints here refuse
-- what that table does not know.
CREATE TABLE runs (
    id             uuid NOT NULL,
    series_id      bigint NOT NULL,
    -- Copied from the series, so that a claim needs one table.
    job            text NOT NULL,
    connection     text NOT NULL,
    vendor         text NOT NULL,
    trigger        text NOT NULL,
    state          text NOT NULL,
    window_start   timestamptz NOT NULL,
    window_end     timestamptz NOT NULL,
    window_zone    text NOT NULL,
    -- The window's name in the archive; two windows may share one when a job's zone was changed.
    window_label   text NOT NULL,
    -- The window ended at the fire's instant, so its report may still change.
    provisional    boolean NOT NULL,
    -- The instant the schedule named, or the one given with --at.
    fire_at        timestamptz NOT NULL,
    -- All that the run asks for, frozen: src/request/mod.rs Request.
    -- (json, not jsonb: keys keep their order, so what is sent is byte for byte what was shown)
    request        json NOT NULL,
    -- Workers whose connection has another base URL or account do not touch the run: a rehearsal never reaches the vendor.
    base_url       text NOT NULL,
    account        text NOT NULL,
    -- The revision it writes, allocated before anything is fetched; kept over retries.
    revision       integer,
    created_at     timestamptz NOT NULL DEFAULT reportd_now(),
    -- When a worker should look at it next.
    next_step_at   timestamptz NOT NULL DEFAULT reportd_now(),
    lease_token    uuid,
    lease_until    timestamptz,
    -- The create in flight or the last one; key of remote_tasks where the vendor makes tasks.
    attempt_id     uuid,
    -- All that is needed to ask the vendor again.
    ticket         jsonb,
    -- When the ticket came, and when the vendor last answered a poll.
    ticketed_at    timestamptz,
    last_poll_at   timestamptz,
    -- Claims since the last finished step; the 20th fails the run.
    claims         integer NOT NULL DEFAULT 0,
    polls          integer NOT NULL DEFAULT 0,
    -- Time in which we could poll, in seconds; compared with the deadline.
    polled_s       double precision NOT NULL DEFAULT 0,
    -- Transient errors in a row, and since when.
    errors         integer NOT NULL DEFAULT 0,
    errors_since   timestamptz,
    -- What it waits for, for people.
    note           text,
    -- It goes on only after a person did something: a breaker is open, a host is not allowed, a secret is missing.
    blocked        boolean NOT NULL DEFAULT false,
    failure_class  text,
    failure        text,
    finished_at    timestamptz,
    CONSTRAINT runs_pkey PRIMARY KEY (id),
    CONSTRAINT runs_series_fkey FOREIGN KEY (series_id) REFERENCES series (id),
    CONSTRAINT runs_vendor_known CHECK (vendor IN ('bik', 'livechat', 'jaicp')),
    CONSTRAINT runs_trigger_known CHECK (trigger IN ('schedule', 'manual', 'fill')),
    CONSTRAINT runs_state_known
        CHECK (state IN ('queued', 'submitting', 'waiting', 'held', 'archived', 'empty', 'failed', 'cancelled')),
    CONSTRAINT runs_window_not_empty CHECK (window_start < window_end),
    CONSTRAINT runs_finished_iff_terminal
        CHECK ((finished_at IS NOT NULL) = (state IN ('archived', 'empty', 'failed', 'cancelled'))),
    CONSTRAINT runs_failure_iff_failed_or_held
        CHECK ((failure_class IS NOT NULL) = (state IN ('failed', 'held'))
           AND (failure IS NOT NULL) = (failure_class IS NOT NULL)),
    CONSTRAINT runs_submitting_has_an_attempt CHECK (state <> 'submitting' OR attempt_id IS NOT NULL),
    CONSTRAINT runs_waiting_has_a_ticket CHECK (state <> 'waiting' OR ticket IS NOT NULL),
    CONSTRAINT runs_archived_has_a_revision CHECK (state NOT IN ('archived', 'empty') OR revision IS NOT NULL),
    CONSTRAINT runs_lease_whole CHECK ((lease_token IS NULL) = (lease_until IS NULL)),
    CONSTRAINT runs_only_workable_states_are_leased
        CHECK (lease_token IS NULL OR state IN ('queued', 'submitting', 'waiting')),
    CONSTRAINT runs_only_workable_states_are_blocked CHECK (NOT blocked OR state IN ('queued', 'waiting')),
    CONSTRAINT runs_errors_since_iff_errors CHECK ((errors > 0) = (errors_since IS NOT NULL)),
    CONSTRAINT runs_counts_not_negative CHECK (claims >= 0 AND polls >= 0 AND polled_s >= 0 AND errors >= 0)
);

-- Once per window: a later fire, fill or run-job attaches to the live run. Held runs are live.
CREATE UNIQUE INDEX runs_one_live_per_window ON runs (series_id, window_start, window_end) WHERE finished_at IS NULL;

-- Serves the claim: WHERE connection, vendor, state IN (queued, submitting, waiting) AND next_step_at <= now.
CREATE INDEX runs_due ON runs (connection, vendor, next_step_at) WHERE state IN ('queued', 'submitting', 'waiting');

-- Serves the count of what is under way at a vendor.
CREATE INDEX runs_under_way ON runs (connection, vendor) WHERE state IN ('submitting', 'waiting');

-- Serves renewal and lookup by lease.
CREATE INDEX runs_leased ON runs (lease_token) WHERE lease_token IS NOT NULL;

-- Serves `runs JOB@CONN`, newest first, and `runs` over all.
CREATE INDEX runs_history ON runs (series_id, created_at DESC, id);
CREATE INDEX runs_newest ON runs (created_at DESC, id);
CREATE INDEX runs_by_state ON runs (state, created_at DESC) WHERE state IN ('held', 'failed', 'queued', 'submitting', 'waiting');
