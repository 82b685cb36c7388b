"""Rows of `shapelake catalog`: from the catalogue alone if possible, else from the Hub."""

import json

import pytest

from pipeline.catalog.families import load_families
from pipeline.catalog.listing import list_catalog
from pipeline.errors import UsageError
from tests.support.fake_hub import FakeHub
from tests.support.hub_folders import README, checkpoint, pythia


def test_every_family_has_a_line_without_a_request(hub: FakeHub) -> None:
    lines = {line["family"]: line for line in list_catalog()}
    assert list(lines) == [one.name for one in load_families()]
    assert hub.requests == []
    assert json.loads(json.dumps(list(lines.values()))) == list(lines.values())
    shown = {name: [lines[name][key] for key in ("models", "where", "kind", "norm", "unit")] for name in lines}
    assert shown["pythia"] == [18, "branches", "decoder", "pre", "step of 2,097,152 tokens"]
    assert shown["multiberts"] == [5, "repos", "encoder", "post", "step of 131,072 tokens"]
    assert shown["bloom"][-1] == "step"
    assert shown["tinyllama"][-1] == "tokens"
    assert shown["amber"][-1] == "chunks of data"
    assert lines["pythia"]["tier"] == "small medium large"
    assert lines["pythia-intervention"]["models"] is None, "given by a pattern that only the Hub can expand"
    assert lines["multiberts-final"]["unit"] is None


def test_the_models_of_a_family(hub: FakeHub) -> None:
    lines = list_catalog("pythia")
    assert [lines[0]["model"], lines[0]["tier"], len(lines)] == ["EleutherAI/pythia-14m", "small", 18]
    assert [(line["model"], line["repos"]) for line in list_catalog("multiberts")] == [
        (f"google/multiberts-seed_{run}", 29) for run in range(5)
    ]
    assert list_catalog("bloom")[0]["tokenizer"] == "bigscience/bloom-560m"
    assert hub.requests == []
    pythia(hub, "EleutherAI/pythia-intervention-70m-deduped")
    pythia(hub, "EleutherAI/pythia-70m")
    assert [line["model"] for line in list_catalog("pythia-intervention")] == [
        "EleutherAI/pythia-intervention-70m-deduped"
    ]
    assert len(hub.requests) == 1


def test_the_checkpoints_of_a_model_in_training_order_with_their_states(hub: FakeHub) -> None:
    repo = pythia(hub, steps=(1000, 0, 512, 2))
    repo.commit(dict(README), branch="step4000")
    repo.commit(checkpoint("x"), branch="odd")
    lines = list_catalog(
        "EleutherAI/pythia-14m", lambda model: {"step0": ("other commit", "other weights"), "old": ("c", "w")}
    )
    assert [(line["revision"], line["step"], line["tokens"], line["state"]) for line in lines] == [
        ("step0", 0, 0, "REUPLOADED"),
        ("step2", 2, 4194304, "NEW"),
        ("step512", 512, 1073741824, "NEW"),
        ("step1000", 1000, 2097152000, "NEW"),
        ("step4000", 4000, 8388608000, "NO_WEIGHTS"),
        ("main", None, None, "DUPLICATE_OF"),
        ("odd", None, None, "UNPARSED"),
        ("old", None, None, "GONE"),
    ]
    assert lines[4]["why"].startswith("neither")
    assert lines[1]["why"] is None, "the known issue (equal to step0) is refuted by the listing"
    assert [line["same_as"] for line in lines] == [None] * 5 + ["step2"] + [None] * 2
    assert {line["rule"] for line in lines} == {"pythia"}
    assert lines[0]["bytes"] == sum(
        len(data or b"") for name, data in checkpoint(f"{repo.id} 0").items() if name not in README
    )


def test_a_model_in_many_repos_is_one_history_with_its_final_repo(hub: FakeHub) -> None:
    for step in (20, 0):
        hub.repo(f"google/multiberts-seed_0-step_{step}k").commit(checkpoint(f"{step}", name="pytorch_model.bin"))
    hub.repo("google/multiberts-seed_0").commit(checkpoint("final", name="pytorch_model.bin"))
    hub.repo("google/multiberts-seed_1").commit(checkpoint("other"))
    lines = list_catalog("google/multiberts-seed_0")
    assert [(line["revision"], line["step"]) for line in lines] == [
        ("multiberts-seed_0-step_0k", 0),
        ("multiberts-seed_0-step_20k", 20_000),
        ("main", None),
    ]
    assert {line["model"] for line in lines} == {"google/multiberts-seed_0"}
    assert {line["rule"] for line in lines} == {"multiberts"}


def test_a_known_fault_is_told_where_the_listing_shows_it(hub: FakeHub) -> None:
    repo = pythia(hub, steps=(0, 1, 2, 4))
    repo.branches["step2"] = repo.branches["step0"]
    why = {line["revision"]: line["why"] for line in list_catalog(repo.id)}
    assert why.pop("step2") == (
        "equal to step0, because the learning rate is near zero (github.com/EleutherAI/pythia/issues/83 and 198)"
    )
    assert set(why.values()) == {None}


def test_what_the_hub_has_nothing_of_is_said_so(hub: FakeHub) -> None:
    hub.repo("someone/empty")
    for name in ("someone/empty", "pythia-intervention", "someone/absent"):
        with pytest.raises(UsageError) as refused:
            list_catalog(name)
        assert len(str(refused.value).splitlines()) == 2


def test_an_unknown_family_names_the_nearest(hub: FakeHub) -> None:
    with pytest.raises(UsageError, match="did you mean 'pythia'"):
        list_catalog("pythai")
