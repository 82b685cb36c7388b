"""Pairs of clouds, and their similarities by repsim 0.1.5 and DADApy 0.3.4, which need another environment:

python -m venv oracle && oracle/bin/pip install numpy==1.26.4 repsim==0.1.5 dadapy==0.3.4
oracle/bin/python tests/support/similarity_oracle.py tests/support/similarity_oracle.json
"""

import json
import sys
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).with_suffix(".json")
NEIGHBOURS = (1, 4, 16)


def clouds() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of clouds of 200 points: related, wide and noisy, curved, unrelated."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((200, 6))
    wide = base @ rng.standard_normal((6, 300)) + 0.5 * rng.standard_normal((200, 300))
    return {
        "related": (base, base @ rng.standard_normal((6, 9)) + 0.3 * rng.standard_normal((200, 9))),
        "wide": (wide, base @ rng.standard_normal((6, 250)) + rng.standard_normal((200, 250))),
        "curved": (base, np.tanh(base @ rng.standard_normal((6, 20)))),
        "unrelated": (rng.standard_normal((200, 400)), rng.standard_normal((200, 400))),
    }


def main(path: str) -> None:
    import repsim  # type: ignore[import-not-found]
    from dadapy import MetricComparisons  # type: ignore[import-not-found]

    found = {}
    for name, (a, b) in clouds().items():
        columns = list(range(a.shape[1])), list(range(a.shape[1], a.shape[1] + b.shape[1]))
        both = MetricComparisons(coordinates=np.hstack([a, b]), maxk=len(a) - 1, n_jobs=1)
        hsic = repsim.hsic([a, b], "linear", "song")  # repsim.cka divides it by biased norms
        first = MetricComparisons(coordinates=a, maxk=len(a) - 1, n_jobs=1)
        found[name] = {
            "debiased_cka": float(hsic[0, 1] / np.sqrt(hsic[0, 0] * hsic[1, 1])),
            "overlap": {k: float(first.return_data_overlap(coordinates=b, k=k)) for k in NEIGHBOURS},
            "imbalance": [float(x) for x in both.return_inf_imb_two_selected_coords(*columns)],
        }
    Path(path).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
