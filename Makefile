# Every verb sets up what it needs; the second time that takes under a second.
# Needs: python3 >= 3.11, make, a C compiler.

PYTHON ?= python3
UV := .uv/bin/uv
# On Linux, MLX runs on the CPU unless you say `make BACKEND=cuda serve`.
BACKEND ?= $(if $(filter Linux,$(shell uname -s)),cpu,)
EXTRAS := $(if $(BACKEND),--extra $(BACKEND)) --extra embeddings
# Every kind of model, and traces: the tests need them.
ALL_EXTRAS := $(EXTRAS) --extra vision --extra whisper --extra images --extra speech --extra otel
RUN := $(UV) run --frozen --no-sync
# Arguments for `make serve`, `make bench` and `make soak`, as in: make serve ARGS="--port 9000"
ARGS ?=
# `make test JOBS=4` runs so many tests side by side, each of these with servers and models of its own.
JOBS ?=
# How long `make soak` runs.
MINUTES ?= 10

.PHONY: setup serve test lint fix bench soak clients docs

setup: .venv/.synced-all

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv .uv || { echo "python3's venv module is needed (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@.uv/bin/pip install --quiet --disable-pip-version-check 'uv>=0.13'

# What is there already stays: `make serve` after `make test` takes nothing away.
.venv/.synced: $(UV) pyproject.toml uv.lock app/__init__.py
	$(UV) sync --frozen --quiet --inexact --python $(PYTHON) --group samples $(EXTRAS)
	@touch $@

.venv/.synced-all: $(UV) pyproject.toml uv.lock app/__init__.py
	$(UV) sync --frozen --quiet --python $(PYTHON) --group samples $(ALL_EXTRAS)
	@touch $@ .venv/.synced

serve: .venv/.synced
	$(RUN) mlx-openai-server launch $(ARGS)

test: setup
	$(RUN) pytest $(if $(JOBS),-n $(JOBS) --dist loadfile)

lint: setup
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) pyright
	$(RUN) lint-imports

fix: setup
	$(RUN) ruff check --fix
	$(RUN) ruff format

bench: setup
	$(RUN) python -m bench $(ARGS)

soak: setup
	$(RUN) python -m bench.soak --minutes $(MINUTES) $(ARGS)

# The official JavaScript clients; needs npm.
clients: setup
	cd tests/clients && npm ci --silent
	$(RUN) python -m tests.clients

docs: setup
	$(RUN) python -m app.settings.docs
