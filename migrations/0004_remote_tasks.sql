-- One row per create at a vendor that makes tasks (BIK reports, JAICP background reports). Written with the intent, before
-- the call, so that a create whose answer was lost has a row all the same.
CREATE TABLE remote_tasks (
    attempt_id     uuid NOT NULL,
    run_id         uuid NOT NULL,
    connection     text NOT NULL,
    vendor         text NOT NULL,
    -- The account's place when the create was made: two accounts may count their ids alike.
    base_url       text NOT NULL,
    account        text NOT NULL,
    -- reportHistoryId or taskId; null until the vendor's answer was read.
    remote_id      text,
    -- All that is needed to ask for it again, also after the run let go of it.
    ticket         jsonb,
    -- What became of the call: intended (no answer read yet), created, refused, not_sent, unknown, waited (429),
    -- not_created (an operator looked).
    outcome        text NOT NULL DEFAULT 'intended',
    -- The vendor's own state word, as last seen.
    status_word    text,
    -- JAICP's progress: rows written and rows to write.
    rows_written   bigint,
    rows_total     bigint,
    intended_at    timestamptz NOT NULL DEFAULT reportd_now(),
    created_at     timestamptz,
    last_polled_at timestamptz,
    polls          integer NOT NULL DEFAULT 0,
    finished_at    timestamptz,
    -- When we deleted it at the vendor (JAICP, delete_after).
    deleted_at     timestamptz,
    CONSTRAINT remote_tasks_pkey PRIMARY KEY (attempt_id),
    CONSTRAINT remote_tasks_run_fkey FOREIGN KEY (run_id) REFERENCES runs (id),
    CONSTRAINT remote_tasks_vendor_makes_tasks CHECK (vendor IN ('bik', 'jaicp')),
    CONSTRAINT remote_tasks_outcome_known
        CHECK (outcome IN ('intended', 'created', 'refused', 'not_sent', 'unknown', 'waited', 'not_created')),
    CONSTRAINT remote_tasks_created_iff_remote_id
        CHECK ((outcome = 'created') = (remote_id IS NOT NULL) AND (remote_id IS NOT NULL) = (created_at IS NOT NULL)
           AND (remote_id IS NOT NULL) = (ticket IS NOT NULL)),
    CONSTRAINT remote_tasks_remote_id_once UNIQUE (connection, vendor, base_url, account, remote_id)
);

CREATE INDEX remote_tasks_of_run ON remote_tasks (run_id, intended_at);
