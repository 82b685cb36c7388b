-- anisotropy with and without sink tokens, and the share of sinks in tokens and in variance
SELECT model, kind, stage, run, corpus, recipe, step, revision, layer, anisotropy, anisotropy_no_sink,
    anisotropy_no_sink / nullif(anisotropy, 0) AS share_left,
    n_sink_tokens / nullif(n_tokens, 0) AS sink_token_share, sink_variance_share, context_tokens
FROM layers WHERE state = 'block'
ORDER BY ALL
