# %% [markdown]
"""Tour of a lake: open it, query it, print findings, and draw the figures, as notebook cells or a program.

Command: shapelake demo && python -m jobs.tour shapelake-demo/lake
Cost: seconds; it measures nothing. Figures are written next to the lake.
Expect: for the demo, two small models whose anisotropy grows in training; for the paper's models, the paper's figures.
"""

# %% Open
import sys
from pathlib import Path

import altair as alt

from pipeline import lake
from pipeline.analysis import compute_finding
from pipeline.cli import hide_tracebacks
from pipeline.report import build_figure_spec, draw_all_figures

hide_tracebacks()  # as a program: an error ends in two lines
URI = sys.argv[1] if sys.argv[0].endswith("tour.py") and len(sys.argv) > 1 else "shapelake-demo/lake"
reader = lake.open_lake(URI)
reader.layers().filter("step IS NOT NULL").aggregate("model, corpus, count(DISTINCT step) AS steps, count(*) AS rows")

# %% One line of SQL, as a frame
reader.sql("SELECT step, layer, anisotropy, anisotropy_se FROM layers WHERE state = 'block' ORDER BY ALL").pl()

# %% Findings: one sentence each, with the effect and its error
for name in ("dome", "phases"):
    for sentence in compute_finding(name, reader)["because"].head(4):
        print(sentence)


# %% The figures: `show` displays one in a notebook, `draw_figure` writes it to a file
def show(name: str) -> alt.Chart:
    """Return the figure `name` for display in a notebook."""
    return alt.Chart.from_dict(build_figure_spec(reader, name), validate=False)


for name, path in draw_all_figures(reader, Path(URI).parent):
    print(path or f"{name}: no data in this lake")

# %%
show("anisotropy-depth")

# %%
show("anisotropy-sinks")

# %%
show("anisotropy-training")

# %%
show("profile-ridge")

# %%
show("id-depth")

# %%
show("id-training")

# %%
show("spectrum")

# %%
show("linearity")

# %%
show("random-tokens")
