# Everything is one command. Nothing has to be prepared but Python (3.11 or newer) and make: see tools/environment.sh.
#
#   make demo              JupyterLab with the demo notebooks; make demo HEADLESS=1 tells the same story without a browser
#   make test              lint, types, tests, doctests, notebooks: what has to pass before a change is offered
#   make test-long         browsers, longer random runs, real faults, wheels
#   make lint | format     the house style, checked or applied
#   make bench             the figures of README and closing notes; make bench ONLY=load runs one of them
#   make sim               the simulator over fresh seeds; make sim SEED=17 replays one
#   make clean             removes the environment and every trace of the above
#
# PYTHON=/path/to/python chooses the interpreter of the environment.

PY = .venv/bin/python
PYTEST = $(PY) -m pytest

.PHONY: demo test test-long lint format bench sim clean env-demo env-test

env-demo env-test:
	@PYTHON="$(PYTHON)" tools/environment.sh $(@:env-%=%)

demo: env-demo
	@$(PY) -m notebooks.demo $(if $(HEADLESS),--headless)

lint: env-test
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

format: env-test
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

test: lint
	$(PYTEST) -m "not long"
	$(PYTEST) --doctest-modules tripleweb jupyter_ext widgets
	$(PYTEST) --nbval-lax --nbval-current-env --nbval-cell-timeout=100 notebooks

test-long: env-test
	$(PYTEST) -m long --durations=10

bench: env-test
	$(PY) -m tests.bench $(ONLY)

sim: env-test
	$(PY) -m tests.sim $(SEED)

clean:
	rm -rf .venv .demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
