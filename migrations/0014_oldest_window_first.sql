-- Runs that are due at one moment, as after an outage, are claimed in the order of the instants that named them, so that a backlog
-- comes oldest first.
DROP INDEX runs_queued;
CREATE INDEX runs_queued ON runs (connection, vendor, (trigger = 'fill'), next_step_at, fire_at) WHERE state = 'queued';
