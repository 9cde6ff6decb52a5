-- What the archive holds, as the database knows it. Rows come from archived runs, or from `archive rebuild`, which reads
-- manifests and never makes a run: so nothing here points at runs by key.
CREATE TABLE revisions (
    series_id       bigint NOT NULL,
    window_label    text NOT NULL,
    revision        integer NOT NULL,
    window_start    timestamptz NOT NULL,
    window_end      timestamptz NOT NULL,
    window_zone     text NOT NULL,
    provisional     boolean NOT NULL,
    -- archived, or empty = a well-formed answer with no rows.
    state           text NOT NULL,
    run_id          uuid NOT NULL,
    trigger         text NOT NULL,
    fire_at         timestamptz NOT NULL,
    -- The vendor's id of the report, for people.
    ticket          text,
    -- Hash of what was asked, without window, e-mails and description.
    content_hash    text NOT NULL,
    -- Key of the manifest, relative to the archive.
    manifest_path   text NOT NULL,
    manifest_sha256 text NOT NULL,
    archived_at     timestamptz NOT NULL,
    CONSTRAINT revisions_pkey PRIMARY KEY (series_id, window_label, revision),
    CONSTRAINT revisions_series_fkey FOREIGN KEY (series_id) REFERENCES series (id),
    CONSTRAINT revisions_run_once UNIQUE (run_id),
    CONSTRAINT revisions_manifest_once UNIQUE (manifest_path),
    CONSTRAINT revisions_count_from_one CHECK (revision >= 1),
    CONSTRAINT revisions_state_known CHECK (state IN ('archived', 'empty')),
    CONSTRAINT revisions_window_not_empty CHECK (window_start < window_end),
    CONSTRAINT revisions_trigger_known CHECK (trigger IN ('schedule', 'manual', 'fill'))
);

-- Serves "is this window held", and coverage over a range.
CREATE INDEX revisions_of_window ON revisions (series_id, window_start, window_end, revision DESC);

CREATE TABLE artifacts (
    series_id    bigint NOT NULL,
    window_label text NOT NULL,
    revision     integer NOT NULL,
    -- Order within the revision, from 0.
    position     integer NOT NULL,
    -- Key of the bytes, relative to the archive.
    path         text NOT NULL,
    media_type   text NOT NULL,
    bytes        bigint NOT NULL,
    sha256       text NOT NULL,
    -- Made by reportd from what was received (rows.ndjson), not received.
    derived      boolean NOT NULL,
    -- Fetched from loopback: a rehearsal, not the vendor.
    simulated    boolean NOT NULL,
    CONSTRAINT artifacts_pkey PRIMARY KEY (series_id, window_label, revision, position),
    CONSTRAINT artifacts_revision_fkey FOREIGN KEY (series_id, window_label, revision)
        REFERENCES revisions (series_id, window_label, revision),
    CONSTRAINT artifacts_path_once UNIQUE (path),
    CONSTRAINT artifacts_bytes_not_negative CHECK (bytes >= 0),
    CONSTRAINT artifacts_sha256_is_hex CHECK (sha256 ~ '^[0-9a-f]{64}$')
);

-- The number of the next revision in a window's folder. Live runs count too: two of them share a folder when a job's zone was
-- changed, because then two windows have one name.
CREATE FUNCTION next_revision(of_series bigint, label text) RETURNS integer
    LANGUAGE sql STABLE
    AS $$
        SELECT 1 + GREATEST(
            (SELECT COALESCE(max(revision), 0) FROM revisions WHERE series_id = of_series AND window_label = label),
            (SELECT COALESCE(max(revision), 0) FROM runs
             WHERE series_id = of_series AND window_label = label AND finished_at IS NULL))
    $$;

-- Serves next_revision(): live runs of a folder.
CREATE INDEX runs_live_of_folder ON runs (series_id, window_label) WHERE finished_at IS NULL;
