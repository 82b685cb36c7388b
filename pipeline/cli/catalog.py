"""Commands about published histories: catalog, audit."""

from typing import Annotated

import typer

from pipeline import render
from pipeline.cli.app import JsonOption, app, print_json
from pipeline.lake import Lake


@app.command()
def catalog(
    name: Annotated[str | None, typer.Argument(metavar="[FAMILY|REPO]", help="All families if left out.")] = None,
    lake: Annotated[str | None, typer.Option("--lake", metavar="URI", help="Say how each stands against it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Known families and their models; of one model its checkpoints in training order, from the Hub.

    Example: shapelake catalog EleutherAI/pythia-70m
    """
    from pipeline.catalog.listing import list_catalog
    from pipeline.sweep.audit_records import last_seen_revisions

    labels = [] if lake is None else Lake(lake).labels()
    found = list_catalog(name, lambda model: last_seen_revisions(labels, model))
    print_json(found) if as_json else render.print_catalog(found)


@app.command()
def audit(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Repos or families of the Hub, or folders.")],
    lake: Annotated[
        str | None, typer.Option("--lake", metavar="URI", help="Compare with it, and keep it there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What is wrong with a history, found without downloading weights: equal, absent and mislabelled checkpoints.

    Exit code 1 if a checkpoint is not what its label says.

    Example: shapelake audit EleutherAI/pythia-2.8b --lake lake
    """
    from pipeline.sweep.audit_records import audit_histories

    found = audit_histories(models, lake)
    print_json(found) if as_json else render.print_audits(found)
    wrong = [finding for history in found for finding in history["findings"] if finding["severity"] == "error"]
    raise typer.Exit(int(bool(wrong)))
