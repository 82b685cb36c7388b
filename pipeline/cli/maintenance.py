"""Commands that maintain a lake and check the machine: compact, verify, quarantine, gc, doctor."""

import random
from typing import Annotated

import typer

from pipeline import render
from pipeline.cli.app import JsonOption, LakeUri, app, print_json
from pipeline.errors import ShapelakeError, UsageError
from pipeline.lake import Lake, Tombstone
from pipeline.spec import Sweep
from pipeline.sweep.config import load_sweep
from pipeline.terminal import print_line

MIN_CELL_PREFIX = 4
MAX_LISTED = 4
"""Maximum number of cell ids that an error message lists."""


@app.command()
def compact(lake: LakeUri, as_json: JsonOption = False) -> None:
    """Write a sorted snapshot of all cells, which queries open instead of thousands of files.

    The files of the cells stay.

    Example: shapelake compact --lake lake
    """
    from pipeline.lake.snapshot import compact

    made = compact(Lake.existing(lake))
    if as_json:
        print_json({name: made and getattr(made, name) for name in ("key", "cells", "rows", "bytes")})
        return
    print_line(f"{made.cells} cells, {made.rows} rows, {made.bytes:,} bytes: {made.key}" if made else "no cells yet")


@app.command()
def verify(
    lake: LakeUri,
    recompute: Annotated[
        str | None,
        typer.Option(
            "--recompute",
            metavar="SWEEP",
            help="Also measure one random cell of SWEEP again, and compare it with the lake.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the random choice of this cell.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Read every file of a lake, and check completeness, checksums and value ranges.

    The exit code is 1 if a check fails.

    Example: shapelake verify --lake lake --recompute sweep.yaml
    """
    from pipeline.lake.verify import verify_lake

    opened = Lake.existing(lake)
    sweep = load_sweep(recompute) if recompute else None
    problems = [problem._asdict() for problem in verify_lake(opened)]
    if sweep is not None:
        problems += _recompute(sweep, opened, seed, problems)
    print_json(problems) if as_json else render.print_problems(problems, len(opened.committed_cell_ids()))
    raise typer.Exit(int(bool(problems)))


def _recompute(sweep: Sweep, lake: Lake, seed: int, problems: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the differences of a cell that is measured again; an error is one of them if there are problems already.

    A damaged lake can cause this error, which must not hide the problems that explain it.
    """
    from pipeline.sweep.recompute import recompute_random_cell

    try:
        return recompute_random_cell(sweep, lake, random.Random(seed))
    except ShapelakeError as error:
        if not problems:
            raise
        return [{"key": f"--recompute of {sweep.name}", "found": f"{error.asked}: {error.found}"}]


@app.command()
def quarantine(
    lake: LakeUri,
    cell: Annotated[str, typer.Argument(metavar="CELL", help="Cell id, or its first 4 or more characters.")],
    reason: Annotated[str | None, typer.Option("--reason", help="Hide the cell, and record this reason.")] = None,
    release: Annotated[
        bool, typer.Option("--release", help="Show the hidden cell again; if it failed, allow a new attempt.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Hide a committed cell from every reader, or release a quarantined cell. Nothing is deleted.

    Example: shapelake quarantine CELL --reason "wrong tokenizer" --lake lake
    """
    opened = Lake.existing(lake)
    if (reason is None) != release:
        raise UsageError("quarantine", "it needs either --reason or --release", "Give one of them, and not both")
    cell_id = _find_cell(opened, cell, release)
    if release:
        opened.release(cell_id)
    else:
        opened.quarantine(Tombstone(cell_id=cell_id, reason=reason or "", by="a person"))
    state = "released" if release else "hidden"
    print_json({"cell_id": cell_id, "state": state}) if as_json else print_line(f"{cell_id} is {state}")


def _find_cell(lake: Lake, prefix: str, quarantined: bool) -> str:
    """Return the id of the only cell whose id begins with `prefix`.

    Args:
        quarantined: search the quarantined cells; else search the committed cells, including those with a damaged file.

    Raises:
        UsageError: no cell matches, several cells match, or `prefix` has fewer than MIN_CELL_PREFIX characters.
    """
    known = lake.quarantined_cell_ids() if quarantined else set(lake.list_cell_files())
    found = sorted(cell_id for cell_id in known if cell_id.startswith(prefix))
    if len(found) == 1 and len(prefix) >= MIN_CELL_PREFIX:
        return found[0]
    if len(found) > 1:
        shown = ", ".join(found[:MAX_LISTED]) + (" ..." if len(found) > MAX_LISTED else "")
        raise UsageError(f"cell {prefix}", f"{len(found)} cells match: {shown}", "Give more characters of the id")
    if found:
        do = f"Give at least {MIN_CELL_PREFIX} characters: {found[0][:MIN_CELL_PREFIX]}"
        raise UsageError(f"cell {prefix}", "too few characters to name a cell", do)
    listing = "status --json" if quarantined else "query 'select cell_id, hidden from cells'"
    state = "quarantined" if quarantined else "committed"
    do = f"List ids with: shapelake {listing} --lake {lake.uri}"
    raise UsageError(f"cell {prefix}", f"no {state} cell has this id", do)


@app.command()
def gc(
    lake: LakeUri,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the files instead of listing them.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List superseded snapshots, and files over a day old that interrupted writers left; with --delete, remove them.

    Cells are never removed.

    Example: shapelake gc --lake lake --delete
    """
    from pipeline.lake.snapshot import collect_garbage

    keys = collect_garbage(Lake.existing(lake), dry_run=not delete)
    if as_json:
        print_json({"files": keys, "removed": delete})
        return
    for key in keys:
        print_line(key)
    print_line(f"{len(keys)} files {'removed' if delete else 'can be removed with --delete'}", err=True)


@app.command()
def doctor(
    lake: Annotated[
        str | None, typer.Option("--lake", metavar="URI", help="Also check that the storage of this lake works.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine: packages, devices, an estimate with a known result, Ray, disk and settings of the Hub.

    The exit code is 1 if one of them is broken.

    Example: shapelake doctor --lake s3://bucket/lake
    """
    from pipeline.doctor import run_checks

    found = [check._asdict() for check in run_checks(lake)]
    print_json(found) if as_json else render.print_checks(found)
    raise typer.Exit(int(any(check["state"] == "broken" for check in found)))
