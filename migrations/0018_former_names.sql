-- Who has the history of a name that a job had before. A name that comes back gets its history back when nobody has it any more.
CREATE TABLE former_names (
    former     text NOT NULL,
    connection text NOT NULL,
    job        text NOT NULL,
    CONSTRAINT former_names_pkey PRIMARY KEY (former, connection),
    CONSTRAINT former_names_differ CHECK (former <> job)
);

-- Serves a holder that is renamed itself.
CREATE INDEX former_names_of_job ON former_names (job, connection);

-- What the files of jobs said that are gone: whether a job that comes back is the same is seen by what it asks for.
CREATE TABLE gone_files (
    job  text NOT NULL,
    text text NOT NULL,
    CONSTRAINT gone_files_pkey PRIMARY KEY (job)
);
