-- A renamed job file keeps its history: revisions move to the new name's series, and their artifacts with them.
ALTER TABLE artifacts
    DROP CONSTRAINT artifacts_revision_fkey,
    ADD CONSTRAINT artifacts_revision_fkey FOREIGN KEY (series_id, window_label, revision)
        REFERENCES revisions (series_id, window_label, revision) ON UPDATE CASCADE;
