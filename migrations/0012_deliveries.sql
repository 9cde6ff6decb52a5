-- Notices about runs, with a life of their own: a failed notice never re-runs a vendor, a crash never loses one.
-- The run's own row is the outbox: whoever ends or holds a run need not know of notices, and no path can forget them.
ALTER TABLE runs
    -- Whom the run tells, frozen when it was made: src/delivery/notice.rs Notices; null = nobody.
    ADD COLUMN notices json,
    -- The state for which deliveries were made; null = none yet.
    ADD COLUMN noticed text,
    ADD CONSTRAINT runs_noticed_is_the_state CHECK (noticed IS NULL OR noticed = state);

-- Serves the herald: which runs have ended, or wait for a person, and have told nobody.
CREATE INDEX runs_to_notice ON runs (id)
    WHERE notices IS NOT NULL AND noticed IS NULL AND state IN ('held', 'archived', 'empty', 'failed');

-- One notice to one target. The states are explained in src/delivery/mod.rs.
CREATE TABLE deliveries (
    id           uuid NOT NULL,
    kind         text NOT NULL,
    cause        text NOT NULL,
    -- Of the first run or window it is about; a BIK create goes through this connection's account.
    job          text,
    connection   text NOT NULL,
    -- Whose time it takes: of those that wait for one host or account, few are tried at once.
    target       text NOT NULL DEFAULT '',
    -- A notice of recovery goes out after what it takes back.
    follows      uuid,
    -- Whom to tell and how (src/delivery/notice.rs Notice), and what of (src/delivery/about.rs About), frozen: every try
    -- says the same.
    notice       json NOT NULL,
    about        json NOT NULL,
    state        text NOT NULL DEFAULT 'pending',
    made_at      timestamptz NOT NULL DEFAULT reportd_now(),
    -- When it is due; while it is being sent, when its lease ends.
    next_try_at  timestamptz DEFAULT reportd_now(),
    lease_token  uuid,
    -- The last claim's token, kept: what BIK answered to that try is recorded even if the claim was lost meanwhile.
    attempt      uuid,
    tries        integer NOT NULL DEFAULT 0,
    -- The first try since it was made or an operator had it sent again; giving up counts from here.
    tried_since  timestamptz,
    -- What the other side said last, or what went wrong; redacted.
    words        text,
    settled_at   timestamptz,
    settled_by   text,
    -- The operator who had it sent again last.
    retried_by   text,
    CONSTRAINT deliveries_pkey PRIMARY KEY (id),
    CONSTRAINT deliveries_kind_known
        CHECK (kind IN ('email', 'webhook', 'file', 'bik_ticket', 'bik_event', 'heartbeat')),
    CONSTRAINT deliveries_cause_known
        CHECK (cause IN ('archived', 'empty', 'failed', 'held', 'breaker', 'late', 'recovered')),
    CONSTRAINT deliveries_state_known CHECK (state IN ('pending', 'sending', 'sent', 'failed', 'held', 'resolved')),
    CONSTRAINT deliveries_leased_iff_sending CHECK ((lease_token IS NOT NULL) = (state = 'sending')),
    CONSTRAINT deliveries_due_iff_open CHECK ((next_try_at IS NOT NULL) = (state IN ('pending', 'sending'))),
    CONSTRAINT deliveries_settled_iff_over
        CHECK ((settled_at IS NOT NULL) = (state IN ('sent', 'failed', 'resolved'))
           AND (settled_at IS NOT NULL) = (settled_by IS NOT NULL)),
    CONSTRAINT deliveries_tries_not_negative CHECK (tries >= 0)
);

-- Serves the claim, kind by kind and target by target: one that hangs keeps no other waiting.
CREATE INDEX deliveries_due ON deliveries (kind, target, next_try_at) WHERE state IN ('pending', 'sending');
-- Serves the count of what is being sent, by target.
CREATE INDEX deliveries_under_way ON deliveries (kind, target, next_try_at) WHERE state = 'sending';
-- Serves `deliveries`, newest first, and what `status` tells of.
CREATE INDEX deliveries_newest ON deliveries (made_at DESC, id);
CREATE INDEX deliveries_wrong ON deliveries (made_at) WHERE state IN ('failed', 'held') OR (state = 'pending' AND tries > 0);

-- Which runs a delivery is about, for `show`.
CREATE TABLE delivery_runs (
    run_id      uuid NOT NULL,
    delivery_id uuid NOT NULL,
    CONSTRAINT delivery_runs_pkey PRIMARY KEY (run_id, delivery_id),
    CONSTRAINT delivery_runs_delivery_fkey FOREIGN KEY (delivery_id) REFERENCES deliveries (id)
);

-- Trouble of one kind that one target is told of: fifty windows of one outage make one notice. Series recover one by one; the
-- alert is open until all of it is over.
CREATE TABLE alerts (
    id        uuid NOT NULL,
    -- Hash of target, cause and vendor: what belongs together (src/worker/herald.rs).
    key       text NOT NULL,
    cause     text NOT NULL,
    -- Whom to tell and how: src/delivery/notice.rs Notice.
    notice    json NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT reportd_now(),
    told_at   timestamptz,
    closed_at timestamptz,
    CONSTRAINT alerts_pkey PRIMARY KEY (id),
    CONSTRAINT alerts_cause_known CHECK (cause IN ('failed', 'held', 'breaker', 'late')),
    CONSTRAINT alerts_closed_after CHECK (closed_at >= opened_at)
);

CREATE UNIQUE INDEX alerts_one_open ON alerts (key) WHERE closed_at IS NULL;

-- One run, window or account in trouble. It joins once, however often it is found.
CREATE TABLE alert_members (
    key          text NOT NULL,
    -- What it is and which time: a run that an operator restarts may fail again.
    subject      text NOT NULL,
    alert_id     uuid NOT NULL,
    -- Null = an account, whatever the series.
    series_id    bigint,
    window_start timestamptz,
    window_end   timestamptz,
    -- When the run ended, the fire of a late window, the breaker's opening.
    happened_at  timestamptz NOT NULL,
    -- What a notice says of it: src/delivery/about.rs Member.
    about        json NOT NULL,
    joined_at    timestamptz NOT NULL DEFAULT reportd_now(),
    -- The delivery that told of it.
    told_by      uuid,
    settled_at   timestamptz,
    -- It works again; false = a person ended it.
    works        boolean,
    -- When its recovery was told, or found not to be told.
    recovered_at timestamptz,
    CONSTRAINT alert_members_pkey PRIMARY KEY (key, subject),
    CONSTRAINT alert_members_alert_fkey FOREIGN KEY (alert_id) REFERENCES alerts (id),
    CONSTRAINT alert_members_told_fkey FOREIGN KEY (told_by) REFERENCES deliveries (id),
    CONSTRAINT alert_members_window_whole CHECK ((window_start IS NULL) = (window_end IS NULL)),
    CONSTRAINT alert_members_works_iff_settled CHECK ((works IS NOT NULL) = (settled_at IS NOT NULL)),
    CONSTRAINT alert_members_recovered_was_told CHECK (recovered_at IS NULL OR (works AND told_by IS NOT NULL))
);

CREATE INDEX alert_members_of_alert ON alert_members (alert_id, series_id);
CREATE INDEX alert_members_open ON alert_members (alert_id) WHERE settled_at IS NULL;
