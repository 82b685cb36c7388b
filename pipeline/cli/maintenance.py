"""Commands that look after a lake, and after the machine: compact, verify, quarantine, gc, doctor."""

import random
from typing import Annotated

import typer

from pipeline import render
from pipeline.cli.app import JsonOption, LakeUri, app, print_json
from pipeline.errors import UsageError
from pipeline.lake import Lake, Tombstone
from pipeline.sweep.config import load_sweep


@app.command()
def compact(lake: LakeUri) -> None:
    """Write all cells into one sorted file, so that queries open one and not thousands; the cells stay.

    Example: shapelake compact --lake lake
    """
    from pipeline.lake.snapshot import compact

    made = compact(Lake.existing(lake))
    said = made and f"{made.cells} cells, {made.rows} rows, {made.bytes:,} bytes: {made.key}"
    typer.echo(said or "no cells yet")


@app.command()
def verify(
    lake: LakeUri,
    recompute: Annotated[
        str | None, typer.Option("--recompute", metavar="SWEEP", help="Measure one random cell of it again too.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of that cell.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Read every file of a lake and check it: whole, as it was written, every number in its range. Exit 1 if not.

    Example: shapelake verify --lake lake --recompute sweep.yaml
    """
    from pipeline.lake.verify import verify_lake

    opened = Lake.existing(lake)
    problems = [problem._asdict() for problem in verify_lake(opened)]
    if recompute:
        from pipeline.sweep import recompute as again

        problems += again.recompute_random_cell(load_sweep(recompute), opened, random.Random(seed))
    print_json(problems) if as_json else render.print_problems(problems, len(opened.committed_cell_ids()))
    raise typer.Exit(int(bool(problems)))


@app.command()
def quarantine(
    lake: LakeUri,
    cell: Annotated[str, typer.Argument(metavar="CELL", help="Its id, from the view cells.")],
    reason: Annotated[str | None, typer.Option("--reason", help="Hide it, for this reason.")] = None,
    release: Annotated[bool, typer.Option("--release", help="Show it again, or let it be tried again.")] = False,
) -> None:
    """Hide a committed cell from every reader, or bring it back; nothing is deleted.

    Example: shapelake quarantine CELL --reason "wrong tokenizer" --lake lake
    """
    opened = Lake.existing(lake)
    if (reason is None) != release:
        raise UsageError("quarantine", "neither or both of --reason and --release", "Give one")
    known = opened.quarantined_cell_ids() if release else opened.committed_cell_ids()
    if cell not in known:
        state = "quarantined" if release else "committed"
        raise UsageError(f"cell {cell}", f"no {state} cell of that id", "Ask: select cell_id, hidden from cells")
    if release:
        opened.release(cell)
    else:
        opened.quarantine(Tombstone(cell_id=cell, reason=reason or "", by="a person"))
    typer.echo(f"{cell} is {'released' if release else 'hidden'}")


@app.command()
def gc(
    lake: LakeUri,
    delete: Annotated[bool, typer.Option("--delete", help="Remove them; without, they are only listed.")] = False,
) -> None:
    """What killed writers left a day ago or earlier, and snapshots that newer ones replaced; never a cell.

    Example: shapelake gc --lake lake --delete
    """
    from pipeline.lake.gc import collect_garbage

    keys = collect_garbage(Lake.existing(lake), dry_run=not delete)
    for key in keys:
        typer.echo(key)
    typer.echo(f"{len(keys)} files {'removed' if delete else 'could go: --delete removes them'}", err=True)


@app.command()
def doctor(
    lake: Annotated[str | None, typer.Option("--lake", metavar="URI", help="Try this place for a lake too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What will not work on this machine, on one screen; exit 1 if something will not.

    Example: shapelake doctor --lake s3://bucket/lake
    """
    from pipeline.doctor import run_checks

    found = [check._asdict() for check in run_checks(lake)]
    print_json(found) if as_json else render.print_checks(found)
    raise typer.Exit(int(any(check["state"] == "broken" for check in found)))
