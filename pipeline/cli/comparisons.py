"""Commands that compare a lake with published claims, and checkpoints, histories and corpora with each other."""

from typing import Any

from pipeline import render
from pipeline.cli.app import JsonOption, LakeUri, app, print_json
from pipeline.cli.queries import CorpusGlob, ModelsGlob


@app.command()
def claims(lake: LakeUri, models: ModelsGlob = "*", corpus: CorpusGlob = "*", as_json: JsonOption = False) -> None:
    """Test published claims on every history of the lake: supports, contradicts or undecided, with the numbers.

    Answers are corrected for the number of claims and histories (Holm). The registry, with papers, rules and bounds:
    pipeline/analysis/claims.md.

    Example: shapelake claims --lake lake
    """
    from pipeline import lake as lakes
    from pipeline.analysis.claim_registry import load_claims
    from pipeline.analysis.published_claims import compute_claims, count_tests, describe_correction

    found = compute_claims(lakes.open_lake(lake), models, corpus)
    if as_json:
        entries: dict[str, Any] = {name: claim.describe() for name, claim in load_claims().items()}
        print_json({"claims": entries, "tests": count_tests(found), "answers": found.to_dicts()})
        return
    render.print_claims(load_claims(), found.to_dicts(), describe_correction(found))
