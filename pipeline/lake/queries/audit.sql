-- every checkpoint label with its audit, the label that it duplicates, and whether its content was replaced
SELECT COLUMNS('^(model|revision|step|tokens_seen|stage|run|duplicate_of|superseded|audit|findings)$')
FROM checkpoints
ORDER BY model, step NULLS LAST, revision
