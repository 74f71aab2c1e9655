# What there is to do here; each target sets up what it needs. `AIRFLOW=2.11 make test` uses another Airflow.
AIRFLOW ?= 3.3
PYTHON ?= python3
PORT ?= 8080

# Each Airflow and each Python that is asked for by its name has its place.
SET := $(AIRFLOW)$(if $(filter python3,$(PYTHON)),,-$(notdir $(PYTHON)))
VENV := .venv/airflow-$(SET)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALLED := .venv/installed-$(SET)
PIP := -m pip --disable-pip-version-check
# Half of their time the tests wait for the loopback, so there are more of them at once than a small machine has cores.
TESTS := pytest --numprocesses=4 --dist=worksteal

.PHONY: help demo test coverage lint e2e matrix bench airflow clean

help:
	@echo "make demo      watch a DAG submit jobs and wait: an emulated API, no account needed"
	@echo "make airflow   the same in Airflow's own pages, until Ctrl-C (PORT=8080)"
	@echo "make test      run the tests"
	@echo "make coverage  the same, and show which lines they miss (which takes half as long again)"
	@echo "make lint      run the linters"
	@echo "make e2e       run the package as users install it, in Airflow's own processes (10 minutes)"
	@echo "make matrix    run the tests on each Airflow, with each Python that is there (an hour)"
	@echo "make bench     measure what waits cost, and parsing (half an hour)"
	@echo "make clean     remove what the others made"
	@echo
	@echo "AIRFLOW=2.11 make ... does it with that Airflow. There are: $(AVAILABLE)"

demo: $(READY)
	@$(BIN)/python -m airflow_wasabi_jobs.demo

test: $(READY)
	$(BIN)/$(TESTS)

coverage: $(READY)
	$(BIN)/$(TESTS) --cov

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

e2e: $(INSTALLED)/.ready
	rm -rf dist .e2e/$(SET)
	$(INSTALLED)/bin/python $(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(INSTALLED)/bin/python $(PIP) install --quiet --no-deps --force-reinstall dist/*.whl
	E2E_HOME=.e2e/$(SET) $(INSTALLED)/bin/pytest tests/e2e
	@test ! -e .e2e/3.3/connection-form.png || cp .e2e/3.3/connection-form.png docs/

matrix:
	@$(PYTHON) tests/matrix.py $(AVAILABLE)

bench: $(READY)
	$(BIN)/python tests/benchmarks/bench_parsing.py
	$(BIN)/python tests/benchmarks/bench_watch.py
	$(BIN)/python tests/benchmarks/bench_watch.py --counts 1000 --kinds watch --behaviour '{"rate_limit_per_minute": 1000}'
	$(BIN)/python tests/benchmarks/bench_watch.py --kinds watch --behaviour '{"error_rate": 0.05}'

airflow: $(READY)
	@$(BIN)/python -m airflow_wasabi_jobs.demo.standalone --home .airflow/$(AIRFLOW) --dags example_dags --port $(PORT)

clean:
	rm -rf .venv .airflow .e2e .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache dist

AVAILABLE := $(patsubst requirements/airflow-%.txt,%,$(wildcard requirements/airflow-*.txt))

$(READY): requirements/airflow-$(AIRFLOW).txt pyproject.toml
	$(call set_up,$(VENV))
	@$(BIN)/python $(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(INSTALLED)/.ready: requirements/airflow-$(AIRFLOW).txt
	$(call set_up,$(INSTALLED))
	@touch $@

define set_up
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON). Set PYTHON=... to a Python 3.11 to 3.13." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, and $(PYTHON) is " + sys.version)'
	@echo "Setting up $(1), which takes a minute or two the first time ..."
	@$(PYTHON) -m venv --clear $(1)
	@$(1)/bin/python $(PIP) install --quiet --no-deps --requirement requirements/airflow-$(AIRFLOW).txt
endef

requirements/airflow-$(AIRFLOW).txt:
	@echo "There is no requirements/airflow-$(AIRFLOW).txt. AIRFLOW can be one of: $(AVAILABLE)" >&2
	@exit 1
