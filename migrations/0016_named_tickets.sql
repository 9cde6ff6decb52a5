-- A ticket that an operator named may be mistyped. When the vendor does not know it, nobody knows more of the create than before,
-- and it must not be sent again as if it had ended.
ALTER TABLE remote_tasks
    -- Who named the id with `resolve --ticket`; null = it is the vendor's own answer.
    ADD COLUMN named_by text,
    ADD CONSTRAINT remote_tasks_named_has_an_id CHECK (named_by IS NULL OR remote_id IS NOT NULL);
