# Two commands for a newcomer: `make demo` and `make test`. Both set up .venv once and reuse it.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
EXTRAS := cpu,dev,report
BENCH := .bench

.PHONY: demo test test-slow test-browser bench explosions-small lint format constraints clean

demo: $(READY)
	@$(VENV)/bin/shapelake demo

# One process per core of CI; a file's tests stay together, for what they share is made once.
test: $(READY)
	@$(VENV)/bin/pytest -n 2 --dist loadfile

test-slow: $(VENV)/.cluster
	@$(VENV)/bin/pytest -m "slow and not gpu and not network" --timeout 1800

# The report in Debian's Chromium, which nothing else needs; screenshots are kept in build/screenshots.
test-browser: $(READY)
	@command -v chromium > /dev/null || { SUDO=$$([ $$(id -u) = 0 ] || echo sudo); \
	  $$SUDO apt-get update -qq && $$SUDO apt-get install -qq -y chromium; }
	@$(VENV)/bin/pytest -m browser tests/report

# Half an hour on 2 quiet cores; ARGS=--quick five minutes, ARGS='--only knn' one group.
bench: $(READY) $(BENCH)/authors/.ready $(BENCH)/dadapy/.ready
	@OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m jobs.bench --json $(BENCH)/bench.json $(ARGS)

# Peers in folders of their own: one is loaded by its path, the other needs an older numpy and runs as a child.
$(BENCH)/authors/.ready: | $(READY)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --target $(@D) llm-microscope==0.0.7
	@touch $@

$(BENCH)/dadapy/.ready:
	@$(PYTHON) -m venv $(@D) && \
	  $(@D)/bin/pip install --quiet --disable-pip-version-check numpy==1.26.4 dadapy==0.3.4 && touch $@ || \
	  { rm -rf $(@D); echo "DADApy cannot be installed here: its rows are left out"; }

# Twelve short trainings, six of which explode: which number warns? The full table is in jobs/explosions/explosions.md.
explosions-small: $(READY)
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m jobs.explosions --out build/explosions --seeds 1

lint: $(READY)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/pyright

format: $(READY)
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

# The environment is made anew only when what it is made from has changed.
$(READY): pyproject.toml infra/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "shapelake needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1): run make PYTHON=python3.12"; exit 2; }
	@echo "setting up $(VENV) (a few minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -c infra/constraints.txt -e '.[$(EXTRAS)]'
	@touch $(READY)

# The job server, which one of the slow tests submits to: 31 packages, 75 MB, and 1.4 CPU seconds at each start of Ray.
$(VENV)/.cluster: $(READY)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -c infra/constraints.txt -e '.[cluster]'
	@touch $@

constraints: $(VENV)/.cluster
	@{ echo "# Everything the tests passed with; set-up and CI install with it. Written by: make constraints"; \
	  $(VENV)/bin/pip freeze --exclude-editable | sed 's/+cpu$$//'; } > infra/constraints.txt

clean:
	rm -rf $(VENV) $(BENCH)
