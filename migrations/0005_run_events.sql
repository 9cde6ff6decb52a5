-- What happened to a run, for people; append-only.
CREATE TABLE run_events (
    id     bigint GENERATED ALWAYS AS IDENTITY,
    run_id uuid NOT NULL,
    at     timestamptz NOT NULL DEFAULT reportd_now(),
    -- made, submitting, ticket, polled, note, held, resolved, archived, …: src/run/store.rs is the list.
    kind   text NOT NULL,
    -- A worker (host and process) or an operator (user and host).
    who    text NOT NULL,
    -- Redacted; never a secret, a link or a body.
    detail text NOT NULL,
    CONSTRAINT run_events_pkey PRIMARY KEY (id),
    CONSTRAINT run_events_run_fkey FOREIGN KEY (run_id) REFERENCES runs (id),
    CONSTRAINT run_events_detail_short CHECK (length(detail) <= 4000)
);

CREATE INDEX run_events_of_run ON run_events (run_id, id);

CREATE FUNCTION run_events_are_append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'run_events is append-only'; END $$;

CREATE TRIGGER run_events_append_only BEFORE UPDATE ON run_events
    FOR EACH ROW EXECUTE FUNCTION run_events_are_append_only();
