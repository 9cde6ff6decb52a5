-- The unit of schedule, window, coverage, pause and archive folder.
CREATE TABLE series (
    id         bigint GENERATED ALWAYS AS IDENTITY,
    job        text NOT NULL,
    connection text NOT NULL,
    vendor     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT reportd_now(),
    CONSTRAINT series_pkey PRIMARY KEY (id),
    CONSTRAINT series_name_once UNIQUE (job, connection),
    CONSTRAINT series_job_is_a_name CHECK (job ~ '^[a-z0-9-]{1,64}$'),
    CONSTRAINT series_connection_is_a_name CHECK (connection ~ '^[a-z0-9-]{1,64}$'),
    CONSTRAINT series_vendor_known CHECK (vendor IN ('bik', 'livechat', 'jaicp'))
);

-- One account of a shop: its rate and its breaker, shared by every process.
CREATE TABLE connections (
    connection         text NOT NULL,
    vendor             text NOT NULL,
    -- The next instant at which a call may start; moved on by 1/requests_per_second for each call.
    next_free_at       timestamptz NOT NULL DEFAULT 'epoch',
    -- Open = the vendor refused our credentials: runs wait and their deadlines stop.
    breaker_open       boolean NOT NULL DEFAULT false,
    breaker_reason     text,
    breaker_opened_at  timestamptz,
    -- When one run may try again (half-open).
    breaker_probe_at   timestamptz,
    -- Salted fingerprint of the secret that was refused: another one is tried at once.
    breaker_secret     text,
    -- Opened by an operator: only an operator closes it.
    breaker_by_hand    boolean NOT NULL DEFAULT false,
    CONSTRAINT connections_pkey PRIMARY KEY (connection, vendor),
    CONSTRAINT connections_vendor_known CHECK (vendor IN ('bik', 'livechat', 'jaicp')),
    CONSTRAINT connections_breaker_open_iff_reason
        CHECK (breaker_open = (breaker_reason IS NOT NULL)
           AND breaker_open = (breaker_opened_at IS NOT NULL)
           AND breaker_open = (breaker_probe_at IS NOT NULL))
);
