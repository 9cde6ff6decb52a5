-- Serve the claim of many runs, account by account: what waits at the vendor, then queued runs, each with fill last. Two indexes,
-- since an index on (state = 'queued') would serve no query: PostgreSQL rewrites `(state = 'queued') = false` to `state <> 'queued'`.
DROP INDEX runs_due;
CREATE INDEX runs_queued ON runs (connection, vendor, (trigger = 'fill'), next_step_at) WHERE state = 'queued';

-- Serves the count of what is under way at a vendor, too.
DROP INDEX runs_under_way;
CREATE INDEX runs_under_way ON runs (connection, vendor, (trigger = 'fill'), next_step_at)
    WHERE state IN ('submitting', 'waiting');

-- Serves what lets the blocked runs of an account go on.
CREATE INDEX runs_blocked ON runs (connection, vendor) WHERE blocked;

-- Serves the question when a worker is needed next, over all accounts.
CREATE INDEX runs_next_step ON runs (next_step_at) WHERE state IN ('queued', 'submitting', 'waiting');

-- Serves coverage: the newest run of each window.
CREATE INDEX runs_of_window ON runs (series_id, window_start, window_end, created_at DESC);

-- Serves "does an unfinished run of this series exist".
CREATE INDEX runs_live_of_series ON runs (series_id) WHERE finished_at IS NULL;

-- Processes that serve, for `status`.
CREATE TABLE replicas (
    id         uuid NOT NULL,
    who        text NOT NULL,
    version    text NOT NULL,
    -- It takes its jobs from the database.
    follows    boolean NOT NULL,
    started_at timestamptz NOT NULL DEFAULT reportd_now(),
    -- Renewed every few seconds; an old one is a process that is gone.
    seen_at    timestamptz NOT NULL DEFAULT reportd_now(),
    -- Its last planner pass; null = none yet.
    passed_at  timestamptz,
    -- What keeps it from planning, or from planning some series; null = nothing.
    trouble    text,
    CONSTRAINT replicas_pkey PRIMARY KEY (id)
);

-- A hint for workers that sleep: the truth is their timer.
CREATE FUNCTION tell_of_runs() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_notify('reportd_runs', ''); RETURN NULL; END $$;

CREATE TRIGGER runs_made AFTER INSERT ON runs FOR EACH STATEMENT EXECUTE FUNCTION tell_of_runs();

-- Whether the archive holds a window so that no run is needed: its newest revision is final, or the new one would be provisional
-- too. The same rule as in src/run/store/make.rs.
CREATE FUNCTION window_is_held(of_series bigint, start timestamptz, open_end timestamptz, provisionally boolean) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$
        SELECT COALESCE((SELECT provisionally OR NOT provisional FROM revisions
                         WHERE series_id = of_series AND window_start = start AND window_end = open_end
                         ORDER BY revision DESC LIMIT 1), false)
    $$;
