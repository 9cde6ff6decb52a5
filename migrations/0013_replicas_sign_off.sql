-- A process that stops leaves its row, so that `status` can still tell when schedules fired last.
ALTER TABLE replicas
    -- When it signed off; null = it serves, or was killed.
    ADD COLUMN stopped_at timestamptz;
