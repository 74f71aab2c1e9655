# Each target sets up what it needs. `AIRFLOW=2.11 make test` uses another Airflow.
AIRFLOW ?= 3.3
PYTHON ?= python3
PORT ?= 8080
DAGS ?= example_dags

# A virtual environment for each Airflow, and for each Python that is set by name.
SET := $(AIRFLOW)$(if $(filter python3,$(PYTHON)),,-$(notdir $(PYTHON)))
VENV := .venv/airflow-$(SET)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALLED := .venv/installed-$(SET)
CELERY := $(wildcard requirements/celery-$(AIRFLOW).txt)
PIP := -m pip --disable-pip-version-check
# More processes than a small machine has cores, because tests spend half of their time waiting for the loopback.
# Without bytecode files, as container images often set it, each process would compile all tests.
TESTS := env PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses=5 --dist=worksteal

.PHONY: help demo test coverage lint docs dist e2e soak matrix bench airflow clean

help:
	@echo "make demo        run a DAG that submits jobs and waits for them, on an emulated API (no account needed)"
	@echo "make airflow     start the Airflow UI with the emulator, until Ctrl-C (PORT=8080 DAGS=example_dags)"
	@echo "make test        run the tests"
	@echo "make coverage    run the tests and show the lines that they do not cover"
	@echo "make lint        run ruff and mypy"
	@echo "make docs        build the documentation; warnings are errors"
	@echo "make dist        build the sdist and the wheel, and check them"
	@echo "make e2e         test the installed wheel in real Airflow processes, with PostgreSQL and Celery (25 minutes)"
	@echo "make soak        wait for 10,000 jobs in the same processes, during faults at random (an hour)"
	@echo "make matrix      run the tests with each Airflow and each installed Python (an hour)"
	@echo "make bench       run the benchmarks: waits, triggerers and DAG parsing (two hours)"
	@echo "make clean       remove everything that the other targets create"
	@echo
	@echo "AIRFLOW=2.11 make ... uses that Airflow. Available: $(AVAILABLE)"

demo: $(READY)
	@$(BIN)/python -m airflow_wasabi_jobs.demo

test: $(READY)
	$(TESTS)

coverage: $(READY)
	$(TESTS) --cov

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.tools
	$(BIN)/sphinx-build --builder html --nitpicky --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "$(CURDIR)/docs/_build/html/index.html"

dist: $(VENV)/.tools
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/twine check --strict dist/*

e2e: $(INSTALLED)/.ready
	rm -rf .e2e/$(SET)
	$(call install_wheel,$(INSTALLED))
# Without env, make starts a shell, which does not pass SIGTERM on to pytest.
	env E2E_HOME=.e2e/$(SET) $(INSTALLED)/bin/pytest -o faulthandler_timeout=900 tests/e2e
	@test ! -e .e2e/3.3/connection-form.png || cp .e2e/3.3/connection-form.png docs/

soak: $(INSTALLED)/.ready
	rm -rf .e2e/$(SET)-soak
	$(call install_wheel,$(INSTALLED))
	env E2E_HOME=.e2e/$(SET)-soak E2E_MINUTES=120 $(INSTALLED)/bin/pytest --capture=no -o faulthandler_timeout=7200 tests/e2e/soak.py

matrix:
	@$(PYTHON) tests/matrix.py $(AVAILABLE)

bench: $(READY) $(if $(filter 3.3,$(AIRFLOW)),$(INSTALLED)/.ready)
	$(BIN)/python tests/benchmarks/bench_parsing.py
	$(BIN)/python tests/benchmarks/bench_events.py
	$(BIN)/python tests/benchmarks/bench_metrics.py
	$(BIN)/python tests/benchmarks/bench_library.py
	$(BIN)/python tests/benchmarks/bench_polling.py
	$(BIN)/python tests/benchmarks/bench_polling.py --counts 1000 --kinds poller --behaviour '{"rate_limit_per_minute": 1000}'
	$(BIN)/python tests/benchmarks/bench_polling.py --kinds poller --behaviour '{"error_rate": 0.05}'
ifeq ($(AIRFLOW),3.3)
	$(call install_wheel,$(INSTALLED))
	$(INSTALLED)/bin/python tests/benchmarks/bench_triggerers.py
	$(INSTALLED)/bin/python tests/benchmarks/bench_triggerers.py --counts 10000 --triggerers 1 --kinds poller baseline sleep --runs 1
endif

airflow: $(READY)
	@$(BIN)/python -m airflow_wasabi_jobs.demo.standalone --home .airflow/$(AIRFLOW) --dags "$(DAGS)" --port $(PORT)

clean:
	rm -rf .venv .airflow .e2e .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache dist docs/_build
	find airflow_wasabi_jobs docs tests -name __pycache__ -prune -exec rm -rf {} +

AVAILABLE := $(patsubst requirements/airflow-%.txt,%,$(wildcard requirements/airflow-*.txt))

$(READY): requirements/airflow-$(AIRFLOW).txt pyproject.toml
	$(call set_up,$(VENV))
	@$(BIN)/python $(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.tools: requirements/docs.txt $(READY)
	@test $(AIRFLOW) = 3.3 || { echo "The tools of docs and dist are pinned for AIRFLOW=3.3." >&2; exit 1; }
	@$(BIN)/python $(PIP) install --quiet --no-deps --requirement requirements/docs.txt
	@touch $@

$(INSTALLED)/.ready: requirements/airflow-$(AIRFLOW).txt $(CELERY)
	$(call set_up,$(INSTALLED))
	@test -z "$(CELERY)" || $(INSTALLED)/bin/python $(PIP) install --quiet --no-deps --requirement $(CELERY)
	@touch $@

define install_wheel
	rm -rf dist
	$(1)/bin/python $(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(1)/bin/python $(PIP) install --quiet --no-deps --force-reinstall dist/*.whl
endef

define set_up
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found. Set PYTHON to a Python 3.11 to 3.13." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required, but $(PYTHON) is " + sys.version)'
	@echo "Setting up $(1); this takes a minute or two the first time ..."
	@$(PYTHON) -m venv --clear $(1)
	@$(1)/bin/python $(PIP) install --quiet --no-deps --requirement requirements/airflow-$(AIRFLOW).txt
endef

requirements/airflow-$(AIRFLOW).txt:
	@echo "requirements/airflow-$(AIRFLOW).txt does not exist. AIRFLOW can be: $(AVAILABLE)" >&2
	@exit 1
