-- anisotropy over depth at the last step of each history: the highest block, with and without sinks, first and last
SELECT model, kind, stage, run, corpus, recipe, step,
    arg_max(layer, anisotropy) AS peak_layer, arg_max(depth, anisotropy) AS peak_depth,
    max(anisotropy) AS peak, arg_max_null(anisotropy_se, anisotropy) AS peak_se,
    arg_max_null(anisotropy_no_sink, anisotropy) AS peak_no_sink,
    arg_min(anisotropy, layer) AS first_block, arg_max(anisotropy, layer) AS last_block,
    arg_max(layer, anisotropy_no_sink) AS no_sink_peak_layer, max(anisotropy_no_sink) AS no_sink_peak
FROM layers WHERE state = 'block' AND NOT coalesce(superseded, false)
GROUP BY model, kind, stage, run, corpus, corpus_sha256, recipe, revision, step
QUALIFY row_number() OVER (
    PARTITION BY model, kind, stage, run, corpus, corpus_sha256, recipe ORDER BY step DESC NULLS LAST, revision
) = 1
ORDER BY ALL
