-- A task that its job wants deleted at the vendor once its file is archived (JAICP, delete_after): a crash or an error in between
-- must not leave it there.
ALTER TABLE remote_tasks
    -- When it is to be tried next; null = not wanted, done, or given up.
    ADD COLUMN delete_at timestamptz;

-- Serves the sweep.
CREATE INDEX remote_tasks_to_delete ON remote_tasks (delete_at) WHERE delete_at IS NOT NULL;
