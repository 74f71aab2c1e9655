# What there is to do here; each target sets up what it needs. `AIRFLOW=2.11 make test` uses another Airflow.
AIRFLOW ?= 3.3
PYTHON ?= python3
PORT ?= 8080

VENV := .venv/airflow-$(AIRFLOW)
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test lint bench airflow clean

help:
	@echo "make demo     watch a DAG wait for jobs: an emulated API, no account needed"
	@echo "make airflow  the same in Airflow's own pages, until Ctrl-C (PORT=8080)"
	@echo "make test     run the tests"
	@echo "make lint     run the linters"
	@echo "make bench    measure what waits cost, and parsing (half an hour)"
	@echo "make clean    remove what the others made"
	@echo
	@echo "AIRFLOW=2.11 make ... does it with that Airflow. There are: $(AVAILABLE)"

demo: $(READY)
	@$(BIN)/python -m airflow_wasabi_jobs.demo

test: $(READY)
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --cov --cov-report=term-missing

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python tests/benchmarks/bench_parsing.py
	$(BIN)/python tests/benchmarks/bench_watch.py
	$(BIN)/python tests/benchmarks/bench_watch.py --counts 1000 --kinds watch --behaviour '{"rate_limit_per_minute": 1000}'
	$(BIN)/python tests/benchmarks/bench_watch.py --kinds watch --behaviour '{"error_rate": 0.05}'

airflow: $(READY)
	@$(BIN)/python -m airflow_wasabi_jobs.demo.standalone --home .airflow/$(AIRFLOW) --dags example_dags --port $(PORT)

clean:
	rm -rf .venv .airflow .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache dist

AVAILABLE := $(patsubst requirements/airflow-%.txt,%,$(wildcard requirements/airflow-*.txt))

$(READY): requirements/airflow-$(AIRFLOW).txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON). Set PYTHON=... to a Python 3.11 to 3.13." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, and $(PYTHON) is " + sys.version)'
	@echo "Setting up $(VENV), which takes a minute or two the first time ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

requirements/airflow-$(AIRFLOW).txt:
	@echo "There is no requirements/airflow-$(AIRFLOW).txt. AIRFLOW can be one of: $(AVAILABLE)" >&2
	@exit 1
