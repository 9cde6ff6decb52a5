-- RunStore::claim_deliveries. $1, $2: kinds and how many of each; $3, $5: only about these runs, or these (null = all);
-- $4: length of a claim in seconds; $6: how many of one target are tried at once.
WITH RECURSIVE
-- The targets that something waits for, one step of the index each.
targets AS (
    SELECT k.kind, k.most, (
        SELECT min(d.target) FROM deliveries d WHERE d.kind = k.kind AND d.state IN ('pending', 'sending')
    ) AS target
    FROM unnest($1::text[], $2::bigint[]) AS k (kind, most)
    UNION ALL
    SELECT t.kind, t.most, (
        SELECT min(d.target) FROM deliveries d
        WHERE d.kind = t.kind AND d.target > t.target AND d.state IN ('pending', 'sending')
    )
    FROM targets t WHERE t.target IS NOT NULL
),
-- What is being sent at the moment, by target.
busy AS MATERIALIZED (
    SELECT kind, target, count(*) AS busy FROM deliveries
    WHERE state = 'sending' AND next_try_at > reportd_now() GROUP BY kind, target
),
-- Of each target the oldest that are due, as far as there is room; of each kind the oldest of those.
wanted AS MATERIALIZED (
    SELECT d.id, t.most, row_number() OVER (PARTITION BY t.kind ORDER BY d.next_try_at, d.id) AS n
    FROM targets t LEFT JOIN busy b ON b.kind = t.kind AND b.target = t.target
    CROSS JOIN LATERAL (
        SELECT d.id, d.next_try_at FROM deliveries d
        WHERE d.kind = t.kind AND d.target = t.target AND d.next_try_at <= reportd_now()
            AND (d.state = 'pending' OR (d.state = 'sending' AND d.kind NOT IN ('bik_ticket', 'bik_event')))
            AND ($3::uuid[] IS NULL OR d.id = ANY ($5)
                 OR d.id IN (SELECT delivery_id FROM delivery_runs WHERE run_id = ANY ($3)))
            AND (d.follows IS NULL OR NOT EXISTS (
                SELECT 1 FROM deliveries p WHERE p.id = d.follows AND p.state IN ('pending', 'sending')))
        ORDER BY d.next_try_at LIMIT GREATEST(0, $6 - COALESCE(b.busy, 0))
    ) d
    WHERE t.target IS NOT NULL
),
-- Another process may want the same: whoever locks a row first has it, and one that was changed meanwhile is not due any more.
due AS (
    SELECT d.id, gen_random_uuid() AS token FROM wanted w JOIN deliveries d ON d.id = w.id
    WHERE w.n <= w.most AND d.next_try_at <= reportd_now()
        AND (d.state = 'pending' OR (d.state = 'sending' AND d.kind NOT IN ('bik_ticket', 'bik_event')))
    FOR NO KEY UPDATE OF d SKIP LOCKED
)
UPDATE deliveries SET state = 'sending', lease_token = due.token, attempt = due.token, tries = tries + 1,
    tried_since = COALESCE(tried_since, reportd_now()), next_try_at = reportd_now() + make_interval(secs => $4)
FROM due WHERE deliveries.id = due.id RETURNING deliveries.*
