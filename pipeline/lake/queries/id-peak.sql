-- the step at which each layer's dimension (id_twonn) is highest; `shapelake findings phases` tests it
SELECT model, kind, stage, run, corpus, recipe, layer, count(*) AS steps,
    arg_max(step, id_twonn) AS peak_step, max(id_twonn) AS peak, arg_max_null(id_twonn_se, id_twonn) AS peak_se,
    arg_min(id_twonn, step) AS at_first_step, arg_max(id_twonn, step) AS at_last_step
FROM layers WHERE step IS NOT NULL AND id_twonn IS NOT NULL AND NOT coalesce(superseded, false)
GROUP BY model, kind, stage, run, corpus, corpus_sha256, recipe, layer
ORDER BY ALL
