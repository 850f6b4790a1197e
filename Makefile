# `make install demo test bench soak simulate lint`: each does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.installed
DEPLOY := .venv-deploy
DEPLOY_DONE := $(DEPLOY)/.installed
SCHEDULES ?= 50000
MINUTES ?= 60
BROKERS ?= 1

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help install check kafka promtool postgres deploy-tools demo test lint audit bench soak simulate docs clean

help:
	@echo "make install  check this machine, make .venv, install pinned dependencies"
	@echo "make demo     the main job on real documents, in a minute"
	@echo "make test     lint, types, import directions and every test"
	@echo "make bench    how fast, as ratios; docs/benchmarks.md explains"
	@echo "make soak     real parts under attack, MINUTES=$(MINUTES) [SEED=n] [BROKERS=3] [MUTANT=name]; docs/reliability.md"
	@echo "make simulate the simulation of the store protocol, SCHEDULES=$(SCHEDULES)"
	@echo "make lint     lint, types and import directions only"
	@echo "make audit    known vulnerabilities of what is locked; needs pip-audit and a network"

check:
	@$(PYTHON) tests/support/machine.py

install: check $(DONE)

$(DONE): pyproject.toml requirements.lock
	@$(PYTHON) tests/support/machine.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock pip setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock \
		--editable ".[embed,documents,http,kafka-codecs,language,postgres,s3,web]" --group dev --group models
	@rm -rf vectide.egg-info  # what building leaves behind is found before what is installed, and grows old
	@touch $(DONE)

demo: install
	$(BIN)/vectide demo

# Kafka for the tests, from Maven Central, once; without Java and Maven its tests skip (and fail in CI).
kafka: install
	@$(BIN)/python -m tests.support.kafka --fetch || test "$$CI" != true

# Prometheus's promtool, out of Debian's package, once; without it the checks of rules and dashboards skip (and fail in CI).
promtool: install
	@$(BIN)/python -m tests.support.promtool --fetch || test "$$CI" != true

# PostgreSQL for the tests, from the distribution; without it its tests skip (and fail in CI).
postgres: install
	@$(BIN)/python -m tests.support.postgres --install || test "$$CI" != true

# checkov for the tests of the chart: it pins what vectide cannot live with, so it lives alone.
deploy-tools: $(DEPLOY_DONE)

$(DEPLOY_DONE): requirements-deploy.lock
	test -x $(DEPLOY)/bin/python || $(PYTHON) -m venv $(DEPLOY)
	$(DEPLOY)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements-deploy.lock
	@touch $(DEPLOY_DONE)

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Strict: where the index says nothing of a package, that would be `none known` otherwise.
audit: install
	@audit=$$(command -v $(BIN)/pip-audit || command -v pip-audit) || \
		{ echo "vectide: pip-audit is missing, so nothing was audited: pipx install pip-audit (docs/security.md)" >&2; exit 1; }; \
	"$$audit" --strict --requirement requirements.lock --no-deps --disable-pip

# Four at a time, for half of what they do is waiting; a file to each: its tests share what they start. A model has one
# thread each: more of them spin for each other's processors, and take half as much again of what there is.
test: export OMP_NUM_THREADS := 1
test: install kafka promtool postgres deploy-tools lint
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder

bench: install kafka
	$(BIN)/python -m tests.bench

soak: install kafka
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --brokers $(BROKERS) \
		$(if $(SEED),--seed $(SEED)) $(if $(MUTANT),--mutant $(MUTANT)) $(if $(JSON),--json $(JSON))

simulate: install
	VECTIDE_SIM_SCHEDULES=$(SCHEDULES) $(BIN)/pytest tests/simulation tests/deploy/test_rules.py --timeout 0 -s

docs: install
	$(BIN)/python -m tests.docs.generate
	$(BIN)/python -m tests.deploy.generate

clean:
	rm -rf $(VENV) $(DEPLOY) build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
