-- What the database knows of itself, and the one clock that several processes agree on.

CREATE TABLE instance (
    only_row     boolean NOT NULL DEFAULT true,
    -- Tells two databases apart; written into the archive's reportd.json by the database that first uses it.
    database_id  uuid NOT NULL DEFAULT gen_random_uuid(),
    -- The archive this database belongs to; null until the first command that writes to one.
    archive_id   uuid,
    -- Salt of every secret's fingerprint.
    salt         bytea NOT NULL DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()),
    -- Moved by tests only; see reportd_now().
    clock_offset interval NOT NULL DEFAULT interval '0',
    CONSTRAINT instance_pkey PRIMARY KEY (only_row),
    CONSTRAINT instance_has_one_row CHECK (only_row)
);

INSERT INTO instance DEFAULT VALUES;

-- The only "now" in SQL: the database's clock plus the tests' offset. STABLE, so an index can serve a comparison with it.
CREATE FUNCTION reportd_now() RETURNS timestamptz
    LANGUAGE sql STABLE
    AS $$ SELECT statement_timestamp() + clock_offset FROM instance $$;
