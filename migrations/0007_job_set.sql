-- The set of job files in force: what every replica fires. `serve` writes its folder here, or `apply` does.
CREATE TABLE job_set (
    only_row   boolean NOT NULL DEFAULT true,
    -- Raised by every change; a replica that has loaded another version loads it anew before it plans.
    version    bigint NOT NULL DEFAULT 0,
    applied_at timestamptz,
    applied_by text,
    CONSTRAINT job_set_pkey PRIMARY KEY (only_row),
    CONSTRAINT job_set_has_one_row CHECK (only_row)
);

INSERT INTO job_set DEFAULT VALUES;

-- The last good version of each job file.
CREATE TABLE job_files (
    job        text NOT NULL,
    -- The file as people know it, for messages.
    file       text NOT NULL,
    text       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT reportd_now(),
    applied_by text NOT NULL,
    CONSTRAINT job_files_pkey PRIMARY KEY (job),
    CONSTRAINT job_files_job_is_a_name CHECK (job ~ '^[a-z0-9-]{1,64}$'),
    CONSTRAINT job_files_sha256_is_hex CHECK (sha256 ~ '^[0-9a-f]{64}$')
);
