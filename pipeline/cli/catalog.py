"""Commands for published histories: catalog, audit."""

from typing import Annotated

import typer

from pipeline import render
from pipeline.cli.app import BaseOption, JsonOption, app, print_json
from pipeline.lake import Lake


@app.command()
def catalog(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[FAMILY|REPO]", help="Family or Hub repo to list. Default: list all families."),
    ] = None,
    lake: Annotated[
        str | None,
        typer.Option("--lake", metavar="URI", help="Compare the listed checkpoints of a repo with this lake."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the known families, the models of a family, or the checkpoints of a Hub repo in training order.

    Example: shapelake catalog EleutherAI/pythia-70m
    """
    from pipeline.catalog.listing import list_catalog
    from pipeline.sweep.audit_records import last_seen_revisions

    labels = [] if lake is None else Lake.existing(lake).labels()
    found = list_catalog(name, lambda model: last_seen_revisions(labels, model))
    print_json(found) if as_json else render.print_catalog(found)


@app.command()
def audit(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Hub repos, families or local folders.")],
    lake: Annotated[
        str | None, typer.Option("--lake", metavar="URI", help="Compare with this lake and record the audit in it.")
    ] = None,
    base: BaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find checkpoints of a history that have equal weights, are missing or do not match their label.

    No weights are downloaded. The exit code is 1 if a checkpoint does not match its label.

    Example: shapelake audit EleutherAI/pythia-2.8b --lake lake
    """
    from pipeline.sweep.audit_records import audit_histories

    found = audit_histories(models, lake, base)
    print_json(found) if as_json else render.print_audits(found)
    wrong = [finding for history in found for finding in history["findings"] if finding["severity"] == "error"]
    raise typer.Exit(int(bool(wrong)))
