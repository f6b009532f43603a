# make run     install what is missing, then the whole pipeline and its verdict
# make proof   after make run: recompute its table, ask its saved and registered models again, by others' libraries
# make test    install what is missing, then all unit and slow tests but those that inject faults (no network)
# make story   the pipeline itself as a test, on sampled data      make stories  with what re-runs when, queues, failures
# make check   lint, then test
# make engines   sweeps on PostgreSQL, joblib, Slurm and Ray, which it starts itself where they are installed (minutes)
# make faults  every fault that is injected, and docs/scoreboard.json      make soak  1,000 random kills over all stages
# make capabilities   the table of what passing tests show, docs/capabilities.md and .json
# make bare-stack   twenty groups of faults in the plain libraries and in this pipeline, into docs/bare_stack.md
# make judge   exported models asked by the LM Evaluation Harness over the same test rows, the page by axe-core
# make study   every method on the same rows at three seeds, in a clone: docs/methods.md and .png (hours on a slow core)
# make study-forgetting   what each method makes a language model forget: docs/forgetting.md (two hours)
# make study-domains   an adapter for each of three domains, combined, against one on their union: docs/domains.md
# make bench   after make run: every job beside what a user would pick instead, into benchmarks/results/ (minutes)
# make bench-full     the same over five rounds, at two threads as well, then whole epochs of three seeds (hours)
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RAY := .venv-ray
RAY_READY := $(RAY)/.ready
PEERS := .venv-bench
PEERS_READY := $(PEERS)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: run proof test story study stories engines faults soak capabilities check lint signatures bare-stack judge bench bench-full
run: $(READY)
	@code=0; dvc repro --keep-going || code=$$?; python -m pipelines.verdict && exit $$code

test: $(READY)
	pytest -n auto --maxprocesses 4 --dist loadfile -m "not story and not finished and not fault and not engine and not judge"

proof: $(READY)
	pytest -m finished

story: $(READY)
	pytest -m "story and not long and not fault"

stories: $(READY)
	pytest -m story

engines: $(READY) $(RAY_READY)
	pytest -m engine
	$(RAY)/bin/python -m pytest -m engine tests/engines/test_launchers.py -k "ray and not array"

faults: $(READY)
	pytest -m "fault and not long" --scoreboard=docs/scoreboard.json

capabilities: $(READY)
	pytest -m "capability and not long" --capabilities=docs/capabilities

soak: $(READY)
	OMP_NUM_THREADS=1 python -m tests.faults.soak

judge: $(PEERS_READY)
	$(PEERS)/bin/python -m pytest -m judge

bench: $(PEERS_READY)
	OMP_NUM_THREADS=1 $(PEERS)/bin/python -m benchmarks quick

bench-full: $(PEERS_READY)
	OMP_NUM_THREADS=1 $(PEERS)/bin/python -m benchmarks full
	OMP_NUM_THREADS=1 $(PEERS)/bin/python -m benchmarks.quality

bare-stack: $(READY)
	python -m benchmarks.bare_stack

study: $(READY)
	test -d state/study || git clone -q . state/study
	mkdir -p state/study/state && ln -sfn $(CURDIR)/state/store state/study/state/store
	cd state/study && git checkout -q -- . && git pull -q && sed -i '/^studies/d' .dvcignore && dvc repro studies/methods/dvc.yaml
	cp state/study/docs/methods.* docs/

study-%: $(READY)
	test -d state/$@ || git clone -q . state/$@
	mkdir -p state/$@/state && ln -sfn $(CURDIR)/state/store state/$@/state/store
	cd state/$@ && git checkout -q -- . && git pull -q && cp studies/$*/params.yaml . && dvc repro
	cd state/$@ && python -m studies.$*.table
	cp state/$@/docs/$*.* docs/

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

$(RAY_READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear $(RAY)
	grep -v -e ^cloudpickle== -e ^joblib== requirements.lock > $(RAY)/constraints.txt
	$(RAY)/bin/python -m pip install --disable-pip-version-check --progress-bar off -c $(RAY)/constraints.txt -e '.[dev,ray]'
	touch $@

$(PEERS_READY): requirements.lock benchmarks/requirements.txt pyproject.toml
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --disable-pip-version-check --progress-bar off --no-deps -r requirements.lock
	$(PEERS)/bin/python -m pip install --disable-pip-version-check --progress-bar off -r benchmarks/requirements.txt -c requirements.lock
	$(PEERS)/bin/python -m pip install --disable-pip-version-check --no-deps -e .
	touch $@
