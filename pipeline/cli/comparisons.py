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
    """Test published claims on every history of the lake.

    Each answer is supports, contradicts or undecided, with the numbers that decide. The answers are corrected (Holm)
    for the number of tests, one per claim and history. pipeline/analysis/claims.md lists the claims with their papers,
    rules and bounds.

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
    first: Annotated[
        str,
        typer.Argument(metavar="A", help="MODEL, MODEL@REVISION, or a run: 'MODEL · STAGE · RUN' or 'MODEL · KIND'."),
    ],
    lake: LakeUri,
    second: Annotated[
        str | None,
        typer.Argument(metavar="[B]", help="Written like A. Without B, A is compared with itself on two corpora."),
    ] = None,
    corpus: Annotated[
        str,
        typer.Option(
            "--corpus",
            metavar="C[,C2]",
            help="Corpus or glob over corpora; or two corpora, on which A is compared with itself. Default: all.",
        ),
    ] = "",
    population: Annotated[
        bool, typer.Option("--population", help="Compare A with all other runs of the same model size in the lake.")
    ] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Print one line per layer.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Also write a page with charts to this .html file."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two checkpoints, two histories or two corpora layer by layer, in every metric, with 95 % intervals.

    If A and B are both given without a revision and both have several steps, they are compared as whole histories.
    Otherwise a name without a revision stands for the newest checkpoint. A model with several runs (stages, seeds)
    needs a revision or the name of a run, 'MODEL · STAGE · RUN' without what it lacks. The kind of a layer stack may
    follow the model, as findings print it: 'MODEL · KIND · STAGE · RUN'. A difference is B minus A; it is paired where
    both read the same tokens. Only rows with the same recipe and corpus are compared. If the lake has similarity
    records of both, their layers are also compared token by token (CKA, shared neighbours).

    With --population, A is compared with the other runs of the same model size, which may be runs of the same model.
    The comparison is made per layer and step with the band of these runs: their median, and their percentiles 5 to 95.

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
        raise UsageError(
            f"compare {label} {second} --population",
            "it compares one label with other runs, but two labels were given",
            "Leave one of the labels out",
        )
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
