"""Commands that compare a lake with published claims, and checkpoints, histories and corpora with each other."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import render
from pipeline.cli.app import JsonOption, LakeUri, app, print_json
from pipeline.cli.queries import CorpusGlob, ModelsGlob
from pipeline.errors import UsageError
from pipeline.terminal import print_line


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


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="MODEL, MODEL@REVISION, or a run as findings name it.")],
    lake: LakeUri,
    second: Annotated[str | None, typer.Argument(metavar="[B]", help="As A. Default: A, with two corpora.")] = None,
    corpus: Annotated[
        str,
        typer.Option(
            "--corpus", metavar="C[,C2]", help="Corpus or glob, or two corpora to compare A on both. Default: all."
        ),
    ] = "",
    population: Annotated[
        bool, typer.Option("--population", help="Compare A with all other runs of its size in the lake.")
    ] = False,
    layers: Annotated[bool, typer.Option("--layers", help="One line per layer.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Also write a page with charts, .html.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two checkpoints, two histories or two corpora, layer by layer: every metric, with 95 % intervals.

    Two labels without a revision are compared as whole histories if both have several steps; otherwise such a label
    stands for its newest checkpoint. A model with several runs (stages, seeds) needs a revision or the name of a run,
    such as 'MODEL · STAGE · RUN'. Differences are B minus A, paired where both read the same tokens. Only rows of
    equal recipe and corpus are compared. If the lake has similarity records of both, their layers are also compared
    token by token (CKA, shared neighbours). --population compares A with the band (median, percentiles 5 to 95) of the
    other runs of its size, other runs of its model included, per layer and step.

    Example: shapelake compare MODEL@step1000 MODEL@step2000 --lake lake
    """
    corpora = [name.strip() for name in corpus.split(",") if name.strip()]
    if population:
        _compare_with_population(lake, first, second, corpora, layers, output, as_json)
        return
    from pipeline import lake as lakes
    from pipeline.analysis.comparison import compare as compare_sides

    reader = lakes.open_lake(lake)
    found = compare_sides(reader, first, second, corpora)
    if output is not None:
        from pipeline.report import write_comparison

        write_comparison(found, output, reader.uri)
    if as_json:
        sides = {"a": found.first._asdict(), "b": found.second._asdict()}
        tables = {"rows": found.rows.to_dicts(), "similarity": found.similarity.to_dicts()}
        print_json({"of": found.of, **sides, "notes": found.notes, **tables})
        return
    render.print_comparison(found, layers)
    if output is not None:
        print_line(str(output))


def _compare_with_population(
    lake: str, label: str, second: str | None, corpora: list[str], layers: bool, output: Path | None, as_json: bool
) -> None:
    from pipeline import lake as lakes
    from pipeline.analysis.population import compute_population, summarize_population

    if second is not None:
        raise UsageError(f"compare {label} {second} --population", "two labels were given", "Leave one of them out")
    reader = lakes.open_lake(lake)
    found = compute_population(reader, label, corpora)
    if output is not None:
        from pipeline.report import write_population

        write_population(found, output, reader.uri)
    if as_json:
        print_json({**found._asdict(), "run": found.run._asdict(), "rows": found.rows.to_dicts()})
        return
    render.print_population(found, summarize_population(found), layers)
    if output is not None:
        print_line(str(output))
