"""Finding `controls`: changes of dimension that token types or the covariance explain, and such that they do not."""

import numpy as np
import pytest

from pipeline.analysis.controls import compute_controls
from tests.support import finding_rows

NAMES = ("id_mle", "id_mle_types", "id_mle_gaussian")


def history(*curves, blocks=3):
    """Rows over training; one curve for each of NAMES, the same in all blocks."""
    rows = [
        finding_rows.row(
            step=step, layer=block + 1, depth=(block + 1) / blocks, **dict(zip(NAMES, values, strict=True))
        )
        for step, values in enumerate(zip(*curves, strict=True))
        for block in range(blocks)
    ]
    return finding_rows.frame(finding_rows.add_groups(rows, *NAMES))


RISE = np.linspace(5.0, 15.0, 8)
FLAT = np.full(8, 12.0)


def find(frame, over, control):
    return compute_controls(frame).filter(over=over, control=control).row(0, named=True)


def test_a_rise_that_token_clusters_make_is_lost_under_the_control():
    found = find(history(RISE, FLAT, RISE), "training", "types")
    assert (found["verdict"], found["claim"], found["paired"]) == ("lost", "contradicts", True)
    assert (found["first"], found["last"]) == (0, 7)
    assert found["change"] == pytest.approx(2.0, abs=0.01)
    assert found["left"] == pytest.approx(0, abs=0.01)
    assert "is contradicted" in found["because"]


def test_a_rise_that_distinct_tokens_share_is_kept():
    found = find(history(RISE, 1.5 * RISE, FLAT), "training", "types")
    assert (found["verdict"], found["claim"]) == ("kept", "supports")
    assert found["left_low"] < 1 < found["left_high"]


def test_a_rise_of_the_covariance_alone():
    frame = history(RISE, RISE, 2 * RISE)
    assert (find(frame, "training", "gaussian")["verdict"], find(frame, "training", "gaussian")["claim"]) == (
        "kept",
        "contradicts",
    )
    frame = history(RISE, RISE, FLAT)
    assert find(frame, "training", "gaussian")["claim"] == "supports"


def test_the_change_over_depth_is_that_of_the_newest_checkpoint():
    depth = np.arange(1, 13) / 12
    rows = [
        finding_rows.row(layer=i + 1, depth=float(depth[i]), id_mle=5.0 + 10 * depth[i], id_mle_types=12.0)
        for i in range(12)
    ]
    found = find(finding_rows.frame(finding_rows.add_groups(rows, *NAMES[:2])), "depth", "types")
    assert (found["verdict"], found["last"]) == ("lost", 1.0)
    assert "over depth" in found["because"]


def test_no_change_and_no_control():
    assert find(history(FLAT, FLAT, FLAT), "training", "types")["verdict"] == "no_change"
    without = history(RISE, FLAT, FLAT).drop("id_mle_types")
    frame = finding_rows.frame(without.to_dicts())
    assert find(frame, "training", "types")["verdict"] == "no_control"


@pytest.mark.parametrize("left", [0.5])
def test_half_a_change_is_seldom_decided(left):
    """At the limit, `kept` and `lost` together are at most 5 % of 200 histories."""
    verdicts, size = [], np.log(RISE / RISE[0])
    for seed in range(200):
        random = np.random.default_rng(seed)
        rows = []
        for step in range(8):
            noise = 0.05 * random.standard_normal((2, 4))
            groups = [
                np.exp(np.log(5) + share * size[step] + each) for share, each in zip((1, left), noise, strict=True)
            ]
            values = {name: float(np.exp(np.log(each).mean())) for name, each in zip(NAMES, groups, strict=False)}
            lists = {f"{name}_groups": each.tolist() for name, each in zip(NAMES, groups, strict=False)}
            rows.append(finding_rows.row(step=step, model=f"lab/m{seed}", **values, **lists))
        verdicts += rows
    found = compute_controls(finding_rows.frame(verdicts)).filter(over="training", control="types")
    rate = float(found["verdict"].is_in(["kept", "lost"]).mean())
    print(f"decided: {rate:.3f} of 200 histories of which exactly half is left")
    assert rate <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
