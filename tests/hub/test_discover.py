"""Discovery on the Hub: branches, tags, repos and subfolders; digests equal those of local copies."""

import json
from pathlib import Path

import pytest

from pipeline.catalog.architectures import norm_placement
from pipeline.catalog.discovery import discover_histories
from pipeline.catalog.local_histories import inspect_checkpoint as local_single
from pipeline.catalog.revisions import History
from pipeline.errors import FetchError, UsageError
from pipeline.spec import Cell, Corpus, Hub, Members, Similarity, built_in_recipe
from pipeline.sweep.cost import estimate_records
from tests.support.fake_hub import FakeHub
from tests.support.hub_folders import CONFIG, README, TOKENIZER, checkpoint, discover_one, pythia, sharded, written


def names(history: History) -> list[str]:
    return [revision.name for revision in history.revisions]


def states(history: History) -> dict[str, str]:
    return {revision.name: revision.state for revision in history.revisions}


def test_a_history_on_branches(hub: FakeHub) -> None:
    repo = pythia(hub)
    history = discover_one(Hub(hub="EleutherAI/pythia-14m"))
    assert (history.model, history.family_name) == ("EleutherAI/pythia-14m", "pythia")
    assert names(history) == ["step0", "step1", "step512", "main"]
    assert [c.revision for c in history.checkpoints] == names(history)
    assert [(c.step, c.tokens_seen, c.tokens_source) for c in history.checkpoints] == [
        (0, 0, "step-times-batch"),
        (1, 2097152, "step-times-batch"),
        (512, 1073741824, "step-times-batch"),
        (None, None, None),
    ]
    last, main = history.checkpoints[-2:]
    assert last.commit_sha == repo.branches["step512"] != main.commit_sha
    assert last.content == main.content
    assert (last.family, last.kinds, last.path, last.tokenizer_path) == ("pythia", ("decoder",), "", "")
    assert last.n_params == len("EleutherAI/pythia-14m 512") // 2  # float16


@pytest.mark.parametrize(("stated", "total"), [({"num_hidden_layers": 6}, 8 * 54_528), ({}, None)])
def test_a_plan_states_the_bytes_of_similarity_records_before_anything_is_fetched(hub, stated, total):
    config = json.dumps({**json.loads(CONFIG), **stated}).encode()
    hub.repo("EleutherAI/pythia-14m").commit({**checkpoint("whole"), "config.json": config}, branch="step1")
    (found,) = discover_one(Hub(hub="EleutherAI/pythia-14m")).checkpoints
    assert found.n_blocks == stated.get("num_hidden_layers")
    recipe = built_in_recipe("quick@1")
    cell = Cell(checkpoint=found, kind="decoder", corpus=Corpus(kind="random-uniform"), recipe=recipe)
    assert estimate_records([cell], Similarity()).bytes == total


@pytest.mark.parametrize(
    "files",
    [
        checkpoint("whole"),
        checkpoint("no tokenizer", tokenizer=False),
        sharded("a", "b"),
        {**checkpoint("both"), "pytorch_model.bin": b"pickle", "tf_model.h5": b"x", "optimizer.bin": b"y"},
        checkpoint("pickles", name="pytorch_model.bin"),
        {**sharded("a", "b"), "model.safetensors": b"whole beside an index"},
        {
            **checkpoint("sentencepiece", tokenizer=False),
            "tokenizer.model": b"s",
            "merges.txt": b"m",
            "vocab.json": b"{}",
        },
    ],
    ids=["whole", "no-tokenizer", "shards", "other-formats", "pickles", "both", "sentencepiece"],
)
def test_digests_and_cell_are_those_of_the_same_folder_read_locally(
    hub: FakeHub, tmp_path: Path, files: dict[str, bytes | None]
) -> None:
    hub.repo("EleutherAI/pythia-14m").commit(files, branch="step1")
    (there,) = discover_one(Hub(hub="EleutherAI/pythia-14m")).checkpoints
    here = local_single(written(tmp_path / "step1", files))
    for field in ("weights_digest", "config_digest", "tokenizer_digest", "kinds", "n_params", "step"):
        assert getattr(there, field) == getattr(here, field)
    cells = [
        Cell(checkpoint=c, kind="decoder", corpus=Corpus(kind="random-uniform"), recipe=built_in_recipe("quick@1"))
        for c in (there, here)
    ]
    assert cells[0].id == cells[1].id


def test_the_files_to_fetch_are_those_that_were_hashed_and_no_more(hub: FakeHub, tmp_path: Path) -> None:
    """A folder with only the downloaded files has the planned digests."""
    files = {**sharded("a", "b"), "pytorch_model.bin": b"pickle", "training_args.bin": b"x", "model.onnx": b"o"}
    hub.repo("EleutherAI/pythia-14m").commit(files, branch="step1")
    (found,) = discover_one(Hub(hub="EleutherAI/pythia-14m")).checkpoints
    assert found.remote
    assert found.tokenizer_remote is None
    wanted = {file.path: files[file.path] for file in found.remote.files}
    assert set(files) - set(wanted) == {*README, "pytorch_model.bin", "training_args.bin", "model.onnx"}
    assert found.remote.total_bytes == sum(len(data or b"") for data in wanted.values())
    assert local_single(written(tmp_path / "step1", wanted)).content == found.content


def test_tags_and_the_tokenizer_of_another_repo(hub: FakeHub, tmp_path: Path) -> None:
    repo = hub.repo("bigscience/bloom-560m-intermediate")
    for step in (10000, 1000):
        repo.tag(f"global_step{step}", repo.commit(checkpoint(f"bloom {step}", tokenizer=False)))
    repo.commit({"config.json": None, "model.safetensors": None})
    for step in (5000, 1000):
        repo.commit(checkpoint("stray"), branch=f"global_step{step}")
    hub.repo("bigscience/bloom-560m").commit({**TOKENIZER, "model.safetensors": b"final"})
    history = discover_one(Members(family="bloom", models="bloom-560m*"))
    assert states(history) == {"global_step1000": "NEW", "global_step10000": "NEW", "main": "NO_WEIGHTS"}
    first = history.checkpoints[0]
    assert (first.step, first.tokens_seen, first.commit_sha) == (1000, None, repo.tags["global_step1000"])
    assert first.tokenizer_remote
    assert first.tokenizer_remote.repo == "bigscience/bloom-560m"
    assert [file.path for file in first.tokenizer_remote.files] == sorted(TOKENIZER)
    assert first.tokenizer_digest == local_single(written(tmp_path / "step1", checkpoint("x"))).tokenizer_digest
    own = discover_one(Hub(hub="bigscience/bloom-560m-intermediate", tokenizer=str(tmp_path / "step1"))).checkpoints[0]
    assert (own.tokenizer_path, own.tokenizer_remote) == (str(tmp_path / "step1"), None)
    assert own.content == first.content


def test_a_repo_per_checkpoint_is_one_history_per_run(hub: FakeHub) -> None:
    for run, step in ((0, 0), (0, 2000), (0, 20), (1, 20)):
        hub.repo(f"google/multiberts-seed_{run}-step_{step}k").commit(
            checkpoint(f"bert {run} {step}", name="pytorch_model.bin")
        )
    hub.repo("google/multiberts-seed_0").commit(checkpoint("final"))
    one, two = discover_histories(Members(family="multiberts"))
    assert [one.model, two.model] == ["google/multiberts-seed_0", "google/multiberts-seed_1"]
    assert [(c.step, c.run) for c in one.checkpoints] == [(0, "0"), (20_000, "0"), (2_000_000, "0")]
    assert one.checkpoints[1].revision == "multiberts-seed_0-step_20k"
    assert one.checkpoints[1].remote
    assert one.checkpoints[1].remote.repo == "google/multiberts-seed_0-step_20k"
    assert discover_one(Members(family="multiberts", models="multiberts-seed_1")) == two
    assert (len(hub.asked("/api/models")), len(hub.asked("*/refs"))) == (2, 5)
    alone = discover_one(Hub(hub="google/multiberts-seed_0-step_20k"))
    assert alone.checkpoints == one.checkpoints[1:2]


def test_sub_folders(hub: FakeHub, tmp_path: Path) -> None:
    repo = hub.repo("m-a-p/neo_scalinglaw_250M")
    for tokens in ("33.55B", "4.19B", "best"):
        repo.commit({f"hf_ckpt/{tokens}/{name}": data for name, data in checkpoint(f"neo {tokens}").items()})
    hub.repo("m-a-p/neo_7b").commit(dict(TOKENIZER))
    history = discover_one(Hub(hub="m-a-p/neo_scalinglaw_250M"))
    assert states(history) == {"hf_ckpt/4.19B": "NEW", "hf_ckpt/33.55B": "NEW", "hf_ckpt/best": "UNPARSED"}
    assert [c.tokens_seen for c in history.checkpoints] == [4_190_000_000, 33_550_000_000]
    first = history.checkpoints[0]
    assert first.remote
    assert first.remote.subfolder == "hf_ckpt/4.19B"
    assert [file.path for file in first.remote.files] == ["config.json", "model.safetensors"]
    assert first.weights_digest == local_single(written(tmp_path / "x", checkpoint("neo 4.19B"))).weights_digest


def test_a_renamed_repo_has_its_canonical_name_and_its_family(hub: FakeHub) -> None:
    hub.repo("LLM360/Amber").commit(checkpoint("amber"), branch="ckpt_000")
    hub.rename("LLM360/Amber", "Elsewhere/Amber")
    history = discover_one(Hub(hub="LLM360/Amber"))
    assert (history.model, history.family_name) == ("Elsewhere/Amber", "amber")
    (found,) = history.checkpoints
    assert found.remote
    assert found.model == found.remote.repo == "Elsewhere/Amber"


def test_gated_is_listed_and_neither_wanted_nor_failed(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = pythia(hub)
    repo.gated = True
    history = discover_one(Hub(hub="EleutherAI/pythia-14m"))
    assert set(states(history).values()) == {"GATED"}
    assert history.checkpoints == ()
    assert len(hub.asked("/EleutherAI/pythia-14m/resolve/*")) <= 2, "access is checked once per repo"
    repo.granted = {"hf_granted"}
    monkeypatch.setenv("HF_TOKEN", "hf_granted")
    assert set(states(discover_one(Hub(hub="EleutherAI/pythia-14m"))).values()) == {"NEW"}
    monkeypatch.delenv("HF_TOKEN")
    assert set(states(discover_one(Hub(hub="EleutherAI/pythia-14m"))).values()) == {"GATED"}, "anonymous: no access"


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({".gitattributes": b"*"}, "neither model.safetensors nor pytorch_model.bin"),
        ({"model.safetensors": b"w"}, "no config.json"),
        (sharded("a", "b", absent=1), "1 of 2 shards absent: model-00002-of-00002.safetensors"),
        ({"config.json": CONFIG, "model.safetensors.index.json": b"no"}, "model.safetensors.index.json lists no"),
    ],
)
def test_a_branch_without_weights_is_told_and_not_wanted(
    hub: FakeHub, files: dict[str, bytes | None], why: str
) -> None:
    pythia(hub).commit(files, branch="step2")
    found = next(r for r in discover_one(Hub(hub="EleutherAI/pythia-14m")).revisions if r.name == "step2")
    assert (found.state, found.weights_digest, found.checkpoint) == ("NO_WEIGHTS", None, None)
    assert found.state_reason is not None
    assert found.state_reason.startswith(why)


def test_pickles_are_planned_only_for_families_that_allow_them(hub: FakeHub) -> None:
    for step in (1, 2, 3):
        hub.repo("someone/model").commit(checkpoint(f"{step}", name="pytorch_model.bin"), branch=f"step{step}")
    history = discover_one(Hub(hub="someone/model"))
    assert history.checkpoints == ()
    (reason,) = {r.state_reason for r in history.revisions}
    assert (reason or "").startswith("pytorch_model.bin is a pickle")


def test_a_pickle_in_an_index_of_safetensors_is_a_pickle(hub: FakeHub) -> None:
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "shard.bin"}}).encode()
    files = {"model.safetensors.index.json": index, "model-1.safetensors": b"a", "shard.bin": b"b"}
    for step in (1, 2, 3):
        hub.repo("someone/model").commit({"config.json": CONFIG, **files}, branch=f"step{step}")
    history = discover_one(Hub(hub="someone/model"))
    assert set(states(history).values()) == {"NO_WEIGHTS"}
    (reason,) = {r.state_reason for r in history.revisions}
    assert (reason or "").startswith("shard.bin is a pickle")


def test_main_with_only_a_readme(hub: FakeHub) -> None:
    repo = hub.repo("HuggingFaceTB/SmolLM3-3B-checkpoints")
    repo.commit(dict(README))
    repo.commit(checkpoint("one"), branch="stage1-step-40000")
    repo.commit(checkpoint("chat"), branch="it-SFT")
    history = discover_one(Hub(hub="HuggingFaceTB/SmolLM3-3B-checkpoints"))
    assert states(history) == {"stage1-step-40000": "NEW", "main": "NO_WEIGHTS"}
    assert history.ignored_names == ("it-SFT",)


def test_an_unknown_repo_goes_through_the_generic_rule_and_says_so(hub: FakeHub) -> None:
    repo = hub.repo("someone/model")
    for name in ("step1000", "checkpoint-20", "step300", "step2000", "deeper-starling"):
        repo.commit(checkpoint(name), branch=name)
    repo.tag("step300", repo.branches["step300"])
    repo.tag("v1.0", repo.branches["step2000"])
    history = discover_one(Hub(hub="someone/model", model="mine"))
    assert (history.model, history.family_name) == ("mine", "generic")
    assert [(c.step, c.model, c.family) for c in history.checkpoints] == [
        (step, "mine", None) for step in (20, 300, 1000, 2000)
    ]
    assert history.unparsed == ("deeper-starling",)
    assert history.ignored_names == ("v1.0",)
    assert not hub.asked(f"*/tree/{repo.branches['deeper-starling']}"), "no request for an unmeasured revision"


def test_too_few_names_are_no_history(hub: FakeHub) -> None:
    repo = hub.repo("someone/model")
    for name in ("step1000", "main", "experiment", "wip"):
        repo.commit(checkpoint(name), branch=name)
    history = discover_one(Hub(hub="someone/model"))
    assert names(history) == ["main", "experiment", "step1000", "wip"]
    assert [c.revision for c in history.checkpoints] == ["main"]
    assert (history.revisions[2].state_reason or "").startswith("too few names of this repo")


def test_a_final_model_is_its_main(hub: FakeHub) -> None:
    hub.repo("openai-community/gpt2").commit(checkpoint("gpt2"))
    (found,) = discover_one(Hub(hub="openai-community/gpt2")).checkpoints
    assert (found.revision, found.step) == ("main", None)


def test_a_file_that_is_listed_and_not_there_spoils_no_other(hub: FakeHub) -> None:
    pythia(hub, steps=(0, 512)).commit({"config.json": b'{"model_type": "llama"}'}, branch="step512")
    lost = hub.repo("EleutherAI/pythia-14m").branches["step512"]
    hub.fail(f"*/{lost}/config.json", status=404, headers={"X-Error-Code": "EntryNotFound"}, times=None)
    history = discover_one(Hub(hub="EleutherAI/pythia-14m"))
    assert [c.revision for c in history.checkpoints] == ["step0", "main"]
    (failed,) = [revision for revision in history.revisions if revision.state == "NO_WEIGHTS"]
    assert failed.name == "step512"
    assert f"no such file: config.json of EleutherAI/pythia-14m at {lost}" in (failed.state_reason or "")


def test_what_cannot_be_found_is_said_in_two_lines(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.catalog.hub_http.FIRST_WAIT_S", 0.001)
    for source in (
        Hub(hub="someone/nothing"),
        Members(family="pythia", models="no-such-*"),
        Members(family="pythai"),
    ):
        with pytest.raises(UsageError) as refused:
            discover_histories(source)
        assert len(str(refused.value).splitlines()) == 2
    pythia(hub)
    hub.fail("*/refs", status=503, times=None)
    with pytest.raises(FetchError):
        discover_histories(Hub(hub="EleutherAI/pythia-14m"))


@pytest.mark.parametrize(
    "config",
    [
        *(b"not json", b"[1]", b"5", b"\xff", b'{"a":' * 100_000, b'{"model_type": "unknown"}'),
        *(b'{"architectures": [1]}', b'{"architectures": 5}', b'{"architectures": {}}', b'{"model_type": []}'),
    ],
    ids=lambda config: config[:24].decode(errors="replace"),
)
def test_a_config_that_says_nothing_has_no_kinds_and_spoils_no_other(
    hub: FakeHub, tmp_path: Path, config: bytes
) -> None:
    broken = {**checkpoint("w"), "config.json": config}
    pythia(hub, steps=(0, 512)).commit(broken, branch="step1")
    found = discover_one(Hub(hub="EleutherAI/pythia-14m")).checkpoints
    assert [(c.revision, c.kinds) for c in found] == [
        *(("step0", ("decoder",)), ("step1", ()), ("step512", ("decoder",)), ("main", ("decoder",)))
    ]
    assert local_single(written(tmp_path / "step1", broken)).kinds == ()
    assert norm_placement({"model_type": []}) == "unknown"


def test_an_index_that_is_too_deep_names_no_shard(hub: FakeHub) -> None:
    files = {"config.json": CONFIG, "model.safetensors.index.json": b'{"weight_map":' * 100_000}
    hub.repo("EleutherAI/pythia-14m").commit(files, branch="step1")
    assert states(discover_one(Hub(hub="EleutherAI/pythia-14m"))) == {"step1": "NO_WEIGHTS"}


def test_offline_a_history_is_what_it_was_when_last_seen(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = pythia(hub)
    seen = discover_one(Hub(hub=repo.id))
    repo.commit(checkpoint("later"), branch="step1000")
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert discover_one(Hub(hub=repo.id)) == seen
    assert hub.requests == []
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE"):
        discover_histories(Hub(hub="EleutherAI/pythia-31m"))
