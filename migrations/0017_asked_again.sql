-- A run that is asked for another report of a held window is sent; any other is not sent when its window is held by then: a job was
-- renamed, the database was older than the archive, an operator retried what another run had brought.
ALTER TABLE runs ADD COLUMN again boolean NOT NULL DEFAULT false;
-- Only those are made while their window is held.
UPDATE runs SET again = true
WHERE finished_at IS NULL AND EXISTS (
    SELECT 1 FROM revisions v WHERE v.series_id = runs.series_id AND v.window_start = runs.window_start
        AND v.window_end = runs.window_end AND v.archived_at < runs.created_at AND (runs.provisional OR NOT v.provisional));

-- Creates in doubt are looked for by window now, together with those of other accounts: remote_tasks_of_run serves both.
DROP INDEX remote_tasks_in_doubt;
