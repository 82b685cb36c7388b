"""The command line: parse, call, print. Science is in recipes, not in flags."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipeline import show
from pipeline.errors import CorpusError, ShapelakeError, UsageError
from pipeline.lake import Lake
from pipeline.lake import status as lake_status
from pipeline.spec import Sweep
from pipeline.sweep.load import load_sweep, override

app = typer.Typer(
    name="shapelake",
    help="The shape of the space in which a language model thinks, layer by layer, over a whole training history.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="A YAML file, or a module such as jobs.local.")]
LakeUri = Annotated[str, typer.Option("--lake", metavar="URI", help="Folder of the Parquet results.")]
Steps = Annotated[str | None, typer.Option("--steps", metavar="SPEC", help="all, log2, every:N, last, or 0,512,3000.")]
Models = Annotated[str | None, typer.Option("--models", metavar="GLOB", help="Only models whose name matches.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a field of the sweep: resources.cpus=4.")
]
BackendName = Annotated[Literal["ray", "inline"], typer.Option("--backend", help="inline: this process, no Ray.")]
Address = Annotated[str | None, typer.Option("--address", metavar="ADDRESS", help="Ray: local, auto or HOST:PORT.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many cells.")]
Retry = Annotated[bool, typer.Option("--retry-quarantined", help="Try quarantined cells again.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable, on standard output.")]


@app.command()
def plan(
    sweep: SweepName, lake: LakeUri, steps: Steps = None, models: Models = None, set_: Set = None, as_json: Json = False
) -> None:
    """What a run would do: wanted, done, quarantined, to run, and why. Writes nothing.

    Example: shapelake plan sweep.yaml --lake lake --steps log2
    """
    from pipeline.sweep.plan import make_plan

    made = make_plan(_chosen(load_sweep(sweep), steps, models, None, set_), Lake(lake))
    _print_json(made.to_json()) if as_json else show.plan(made, lake)


@app.command()
def run(
    sweep: SweepName,
    lake: LakeUri,
    backend: BackendName = "ray",
    address: Address = None,
    limit: Limit = None,
    steps: Steps = None,
    models: Models = None,
    set_: Set = None,
    retry_quarantined: Retry = False,
) -> None:
    """Measure every wanted cell that the lake does not have yet. Rerun it at any time.

    Example: shapelake run sweep.yaml --lake lake
    """
    run_sweep(_chosen(load_sweep(sweep), steps, models, address, set_), lake, backend, limit, retry_quarantined)


def run_sweep(sweep: Sweep, lake: str, backend: Any, limit: int | None = None, retry: bool = False) -> None:
    """Plan, run, print the report, and leave with its exit code."""
    from pipeline.sweep.plan import limited, make_plan
    from pipeline.sweep.run import run

    opened = Lake(lake)
    made = limited(make_plan(sweep, opened, retry), limit)
    show.plan(made, lake)
    report = run(made, opened, backend)
    show.report(report, made, lake)
    raise typer.Exit(report.exit_code)


@app.command()
def catalog(
    name: Annotated[str | None, typer.Argument(metavar="[FAMILY|REPO]", help="All families if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Known families and their models; of one model its checkpoints in training order, from the Hub.

    Example: shapelake catalog EleutherAI/pythia-70m
    """
    from pipeline.catalog.listing import listing

    found = listing(name)
    _print_json(found) if as_json else show.listing(found)


@app.command()
def audit(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Repos or families of the Hub, or folders.")],
    lake: Annotated[
        str | None, typer.Option("--lake", metavar="URI", help="Compare with it, and keep it there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What is wrong with a history, found without downloading weights: equal, absent and mislabelled checkpoints.

    Exit code 1 if a checkpoint is not what its label says. Example: shapelake audit EleutherAI/pythia-2.8b --lake lake
    """
    from pipeline.sweep.audits import audited

    found = audited(models, lake)
    _print_json(found) if as_json else show.audits(found)
    wrong = [finding for history in found for finding in history["findings"] if finding["severity"] == "error"]
    raise typer.Exit(int(bool(wrong)))


@app.command()
def status(
    lake: LakeUri,
    failed: Annotated[bool, typer.Option("--failed", help="Every failure, with what reproduces it.")] = False,
    as_json: Json = False,
) -> None:
    """What the lake holds, what runs, what failed.

    Example: shapelake status --lake lake --failed
    """
    state = lake_status(Lake.existing(lake))
    _print_json(state["failures"] if failed else state) if as_json else show.status(state, failed)


@app.command()
def measure(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A folder, or REPO@REVISION on the Hub.")],
    corpus: Annotated[str, typer.Option("--corpus", metavar="KIND[:PATH]", help="enwik8-raw:FILE, random-uniform ...")],
    recipe: Annotated[str, typer.Option("--recipe", metavar="NAME", help="Built-in, or its fields as JSON or YAML.")],
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", help="Folder of the tokenizer files.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="One profile of an encoder-decoder.")] = None,
    lake: Annotated[str | None, typer.Option("--lake", metavar="URI", help="Commit the rows there too.")] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Measure one checkpoint here and now, without Ray; nothing is written unless --lake is given.

    Example: shapelake measure runs/step512 --corpus text:book.txt --recipe quick@1
    """
    from pipeline.sweep.single import measure_one

    rows = measure_one(checkpoint, corpus, recipe, tokenizer, kind, lake, set_ or [])
    _print_json(rows) if as_json else show.rows(rows)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="DuckDB SQL over the views layers, checkpoints and cells, or @NAME.")],
    lake: LakeUri,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output.")] = False,
) -> None:
    """Ask the lake.

    Example: shapelake query "select step, layer, anisotropy from layers order by 1, 2" --lake lake
    """
    from pipeline import lake as lakes
    from pipeline.lake.queries import resolve

    if as_json and as_csv:
        raise UsageError("--json and --csv", "both given", "Choose one")
    found = lakes.open(lake).frame(resolve(sql))
    printed = show.csv if as_csv else show.json_rows if as_json else show.result
    printed(found.columns, found.rows())


@app.command()
def findings(
    lake: LakeUri,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One finding; all if left out.")] = None,
    as_json: Json = False,
) -> None:
    """What the lake shows and how surely: dome, phases, nulls, sinks, trust ..., each with a verdict.

    Example: shapelake findings dome --lake lake
    """
    from pipeline import lake as lakes
    from pipeline.analysis import FINDINGS, find

    opened = lakes.open(lake)
    found = {one: find(one, opened) for one in ([name] if name else FINDINGS)}
    if as_json:
        _print_json({one: frame.to_dicts() for one, frame in found.items()})
    else:
        show.findings({one: FINDINGS[one].question for one in found}, found)


@app.command()
def metrics(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A metric or a group; all if left out.")] = None,
    as_json: Json = False,
) -> None:
    """What each metric means: unit, meaning, source, known bias.

    Example: shapelake metrics id_twonn
    """
    from pipeline.metrics import described, metrics

    found = metrics(name)
    _print_json([asdict(metric) for metric in found]) if as_json else typer.echo(described(found))


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where its histories and lake go.")] = Path("shapelake-demo"),
) -> None:
    """Train a small decoder and a small encoder, sweep both histories, and print what happened to their space.

    Example: shapelake demo
    """
    from pipeline.demo import demo

    raise typer.Exit(demo(folder))


def job() -> None:
    """Make a module of `jobs` a program: `python -m jobs.X ...` is `shapelake run jobs.X ...`."""
    module = sys.modules["__main__"]
    assert module.__spec__ is not None, "run it as python -m jobs.X"
    if {"-h", "--help"} & set(sys.argv):
        typer.echo(f"{module.__doc__}")
    sys.argv[1:] = ["run", module.__spec__.name, *sys.argv[1:]]
    main()


def main() -> None:
    """The console script."""
    # torch and FAISS bring a pool of threads each; one that spins while the other works takes its cores away.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except ShapelakeError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, UsageError | CorpusError) else 1)
    except BrokenPipeError:  # the reader of our output has left: `shapelake query ... | head`
        sys.stderr.close()


def _chosen(
    sweep: Sweep, steps: str | None, models: str | None, address: str | None, overrides: list[str] | None
) -> Sweep:
    given = {"steps": steps, "models": models, "resources.address": address}
    short = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    return override(sweep, [*(overrides or []), *short]).relative_to(Path.cwd())


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))
