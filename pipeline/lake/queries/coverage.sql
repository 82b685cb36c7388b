-- number of labels, range of steps, and number of rows with a status other than ok, per model, corpus and recipe
SELECT model, kind, corpus, recipe, count(DISTINCT revision) AS labels, min(step) AS first_step,
    max(step) AS last_step, count(DISTINCT layer) AS layers, count(*) AS rows,
    count(*) FILTER (status <> 'ok') AS not_ok, max(written_at) AS last_written
FROM layers
GROUP BY model, kind, corpus, recipe
ORDER BY ALL
