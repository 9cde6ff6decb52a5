-- Serves the question which runs have a create that nobody knows about: few of very many.
CREATE INDEX remote_tasks_in_doubt ON remote_tasks (run_id) WHERE outcome IN ('intended', 'unknown');
