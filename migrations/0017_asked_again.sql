-- A run that is asked for another report of a held window is sent; any other is not sent when its window is held by then: a job was
-- renamed, the database was older than the archive, an operator retried what another run had brought.
ALTER TABLE runs ADD COLUMN again boolean NOT NULL DEFAULT false;
UPDATE runs SET again = true WHERE finished_at IS NULL AND window_is_held(series_id, window_start, window_end, provisional);

-- Creates in doubt are looked for by window now, together with those of other accounts: remote_tasks_of_run serves both.
DROP INDEX remote_tasks_in_doubt;
