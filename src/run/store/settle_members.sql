-- RunStore::settle_members: which members of open alerts are out of trouble.
WITH open AS (
    SELECT m.key, m.subject, a.cause, m.series_id, m.window_start, m.window_end, m.happened_at, m.joined_at, m.about
    FROM alerts a JOIN alert_members m ON m.alert_id = a.id
    WHERE a.closed_at IS NULL AND m.settled_at IS NULL
    -- Whoever has a member is about to change it: it is looked at again next time, and nobody waits for anybody.
    FOR NO KEY UPDATE OF m SKIP LOCKED
),
-- When each series in trouble brought a report last. Its fifty newest runs are enough to find that; a longer history would only
-- cost. Once a series and not once a member: an outage has many windows.
brought AS MATERIALIZED (
    SELECT series.series_id, max(r.finished_at) AS at
    FROM (SELECT DISTINCT series_id FROM open WHERE cause = 'failed') series CROSS JOIN LATERAL (
        SELECT state, finished_at FROM runs WHERE runs.series_id = series.series_id ORDER BY created_at DESC LIMIT 50
    ) r
    WHERE r.state IN ('archived', 'empty') GROUP BY series.series_id
),
-- A run that failed: the first run of its series that works again ends the trouble. A run that is held waits for a person
-- whatever the others do: only its own report ends it.
working AS (
    SELECT open.key, open.subject FROM open JOIN brought ON brought.series_id = open.series_id
    WHERE open.cause = 'failed' AND brought.at > open.happened_at
    UNION ALL
    SELECT open.key, open.subject FROM open JOIN runs r ON r.id = (open.about->>'run_id')::uuid
    WHERE open.cause IN ('failed', 'held') AND r.state IN ('archived', 'empty')
),
-- A late window: it is held now.
come AS (
    SELECT open.key, open.subject FROM open JOIN LATERAL (
        SELECT NOT v.provisional OR v.archived_at >= open.happened_at AS final FROM revisions v
        WHERE v.series_id = open.series_id AND v.window_start = open.window_start AND v.window_end = open.window_end
        ORDER BY v.revision DESC LIMIT 1
    ) held ON held.final
    WHERE open.cause = 'late'
),
-- A breaker: it is closed, or was and opened again.
closed AS (
    SELECT open.key, open.subject FROM open
    WHERE open.cause = 'breaker' AND NOT EXISTS (
        SELECT 1 FROM connections c
        WHERE c.connection = open.about->>'connection' AND c.vendor = open.about->>'vendor'
            AND c.breaker_open AND c.breaker_opened_at = open.happened_at
    )
),
-- A person ended it: the run was cancelled or given up, or the series is not in force any more (a job that only runs by hand never
-- was). A held run that failed is told as failed. And what nobody mended for a hundred days, longer than any
-- schedule's step but a year's, must not keep the alert open for ever.
ended AS (
    SELECT open.key, open.subject FROM open
    WHERE EXISTS (
            SELECT 1 FROM runs r WHERE r.id = (open.about->>'run_id')::uuid AND open.cause IN ('failed', 'held', 'late')
                AND (r.state = 'cancelled' OR (r.state = 'failed' AND (r.failure_class = 'given_up' OR open.cause = 'held')))
        )
        OR (open.series_id IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM series s WHERE s.id = open.series_id AND (s.in_force OR s.first_seen_at IS NULL)
        ))
        OR (open.cause IN ('failed', 'late') AND open.joined_at < reportd_now() - interval '100 days')
),
settled AS (
    SELECT key, subject, true AS works FROM working
    UNION SELECT key, subject, true FROM come
    UNION SELECT key, subject, true FROM closed
    UNION SELECT key, subject, false FROM ended
)
UPDATE alert_members m SET settled_at = reportd_now(), works = s.works
FROM (SELECT key, subject, bool_or(works) AS works FROM settled GROUP BY key, subject) s
WHERE m.key = s.key AND m.subject = s.subject AND m.settled_at IS NULL
