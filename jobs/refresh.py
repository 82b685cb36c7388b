"""Are there new checkpoints on the Hub in any history of models of up to half a billion parameters? Measure only those.

Source: every small history of the catalogue (pipeline/catalog/families.yaml), without final and large models.
Command: python -m jobs.refresh --lake LAKE [--limit 100]; preview: shapelake plan jobs.refresh --lake LAKE
Schedule it once a day, never two at a time, with HF_TOKEN set. With cron, on a machine of its own:
0 3 * * * cd /srv/shapelake && flock -n refresh.lock .venv/bin/python -m jobs.refresh --lake /srv/lake
On a cluster: infra/raycronjob.yaml, or shapelake submit jobs.refresh --cluster URL --lake URI. Exit code 1 means
that a cell failed or is quarantined; the next run retries what the retry policy allows.
Bytes: first run, by family: Pythia 8 x 154 checkpoints, 154 x 2 x 1.32e9 = 4.1e11; its seeds
9 x 154 x 2 x 6.8e8 = 1.9e12; decoupled seeds 6 x 154 x 2 x 1.62e8 = 3.0e11; version 0, 2 x 143 x 2 x 6.4e8 = 3.7e11;
GPT-2 5 x 609 x 4 x 4.8e8 = 5.8e12; Ettin and its crosses 236 x 4 x 1.33e9 x 2 = 2.5e12; the others about 2e11; in all
4.1e11 + 1.9e12 + 3.0e11 + 3.7e11 + 5.8e12 + 2.5e12 = 1.13e13; at most 1.6e9 per checkpoint. Later runs: none on most
days, and one request per repo.
GPU-hours: first run, forward passes of 5 x 1024 x 256 = 1310720 tokens, in float32 at 4e13 FLOP/s, over the sum of
checkpoints x parameters of these families, 3.7e12: 2 x 3.7e12 x 1.31e6 / 4e13 / 3600 = 67. Metrics are not included.
Start with --steps log2, about a tenth of that; later runs without it add the other steps.
Expect: no cell on a day without new checkpoints; otherwise the cells that `plan` lists, each with its reason.
"""

from collections.abc import Iterator

from pipeline.catalog.families import load_families
from pipeline.cli import run_job_module
from pipeline.spec import Corpus, Members, Sweep, built_in_recipe


def small_histories() -> Iterator[Members]:
    """Yield each family with histories as a whole if all of its models are small, else each of its small repos."""
    for family in load_families():
        repos = family.list_repos()
        small = [repo for repo in repos if family.tier_of(repo) == "small"]
        if not small or family.where == "final" or family.unloadable:
            continue
        for models in small if len(small) < len(repos) else ["*"]:
            yield Members(family=family.name, models=models)


SWEEP = Sweep(
    name="refresh",
    checkpoints=tuple(small_histories()),
    corpora=(Corpus(kind="enwik8"),),
    recipe=built_in_recipe("standard@1"),
)

if __name__ == "__main__":
    run_job_module()
