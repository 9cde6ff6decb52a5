-- Claims runs that are due, account by account. $1-$6: the accounts, with how many runs may be under way at the vendor and how many to
-- claim at most; $7: a lease in seconds; $8: most runs in all.

-- How much room each account has at its vendor, served by runs_under_way. A filter only, so that an account that is full costs no
-- claims: the permit itself is given under the account's lock (permit.rs, which counts alike).
WITH claimants AS (
    SELECT c.*, GREATEST(c.max_in_flight - (
               SELECT count(*) FROM runs WHERE runs.connection = c.connection AND runs.vendor = c.vendor
                   AND state IN ('submitting', 'waiting') AND NOT blocked AND errors < 3
                   AND (state = 'waiting' OR lease_until + make_interval(secs => $7) > reportd_now())), 0) AS room
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[])
        WITH ORDINALITY AS c (connection, vendor, base_url, account, max_in_flight, most, place)
),
-- What waits at the vendor first (runs_under_way), then queued runs (runs_queued), each with fill last, by its time; a backlog that
-- is due at one moment comes oldest first.
due AS (
    SELECT found.id, found.taken_over FROM claimants c CROSS JOIN LATERAL (
        (SELECT id, lease_token IS NOT NULL AS taken_over, 0 AS rank, trigger = 'fill' AS is_fill, next_step_at, fire_at FROM runs
         WHERE connection = c.connection AND vendor = c.vendor
             AND state IN ('submitting', 'waiting') AND next_step_at <= reportd_now()
             AND base_url = c.base_url AND account IN (c.account, '')
             AND (lease_until IS NULL OR lease_until + CASE state
                      WHEN 'submitting' THEN make_interval(secs => $7) ELSE interval '0' END <= reportd_now())
         ORDER BY (trigger = 'fill'), next_step_at LIMIT c.most)
        UNION ALL
        (SELECT id, lease_token IS NOT NULL AS taken_over, 1 AS rank, trigger = 'fill' AS is_fill, next_step_at, fire_at FROM runs
         WHERE connection = c.connection AND vendor = c.vendor AND state = 'queued' AND next_step_at <= reportd_now()
             AND base_url = c.base_url AND account IN (c.account, '')
             AND (lease_until IS NULL OR lease_until <= reportd_now())
         ORDER BY (trigger = 'fill'), next_step_at, fire_at LIMIT LEAST(c.most, c.room))
        ORDER BY rank, is_fill, next_step_at, fire_at LIMIT c.most
    ) found
    ORDER BY c.place LIMIT $8
),
-- Asked again under the row's lock: somebody may have taken it meanwhile.
locked AS (
    SELECT runs.id, due.taken_over FROM runs JOIN due ON due.id = runs.id
    WHERE state IN ('queued', 'submitting', 'waiting') AND next_step_at <= reportd_now()
        AND (lease_until IS NULL OR lease_until + CASE state
                 WHEN 'submitting' THEN make_interval(secs => $7) ELSE interval '0' END <= reportd_now())
    FOR NO KEY UPDATE OF runs SKIP LOCKED
)
UPDATE runs SET lease_token = gen_random_uuid(), lease_until = reportd_now() + make_interval(secs => $7), claims = claims + 1
FROM locked WHERE runs.id = locked.id
RETURNING runs.*, locked.taken_over, reportd_now() AS claimed_at
