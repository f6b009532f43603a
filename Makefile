# make run     install what is missing, then the whole pipeline and its verdict
# make proof   after make run: recompute its table, ask its saved and registered models again, by others' libraries
# make test    install what is missing, then all unit and slow tests (no network)
# make story   the pipeline itself as a test, on sampled data      make stories  with what re-runs when, queues, failures
# make check   lint, then test
# make bench   after make run: training beside Hugging Face's Trainer, into benchmarks/results/
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: run proof test story stories check lint signatures bench
run: $(READY)
	@code=0; dvc repro --keep-going || code=$$?; python -m pipelines.verdict && exit $$code

test: $(READY)
	pytest -m "not story and not finished"

proof: $(READY)
	pytest -m finished

story: $(READY)
	pytest -m "story and not long"

stories: $(READY)
	pytest -m story

bench: $(READY)
	OMP_NUM_THREADS=1 python -m benchmarks.fits

lint: $(READY)
	ruff check . && ruff format --check .

check: lint test

signatures: $(READY)
	python -m stepladder.signatures

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Stepladder needs Python 3.11 or newer')"
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar off -r requirements.lock
	$(VENV)/bin/python -m pip install --disable-pip-version-check --no-deps -e .
	$(VENV)/bin/dvc config --local core.site_cache_dir $(CURDIR)/state/dvc
	touch $@
