# The commands a newcomer needs: `make demo` and `make test`; `make help` shows the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find src python -name '*.rs' -o -name '*.py' -o -name '*.toml') Cargo.toml Cargo.lock pyproject.toml

SEEDS ?= 100000

.PHONY: help demo test peers test-rust simulate test-python interop conformance lint format build clean wheels leaks chaos fuzz bench report count audit docs

help: ## Show what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/made: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' 'maturin>=1.9,<2'
	touch $@

# Release, because a debug build is several times slower and says so.
$(VENV)/built: $(VENV)/made $(SOURCES)
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --quiet
	touch $@

$(VENV)/tools: $(VENV)/made
	$(BIN)/python -m pip install --quiet --group dev --group types --group examples --group docs
	touch $@

build: $(VENV)/built ## Build and install into .venv

demo: build ## Play the main scene: a phone switches a bedroom light on
	$(BIN)/python examples/light_in_bedroom.py

# The compilers of the peers beside mypy and stubtest, which leave a core idle.
test: build $(VENV)/tools ## Install what the tests need, and run them all
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint peers
	$(MAKE) --no-print-directory test-rust test-python wheels

peers: $(VENV)/made
	PYTHON=$(abspath $(BIN)/python) tests/install-servers.sh
	PYTHON=$(PYTHON) tests/interop/install.sh

test-rust:
	cargo test --locked --quiet

# The advisories come from the network: without it, make audit CHECKS="licenses bans sources".
CHECKS ?= all
AUDIT_ALL := $(filter all,$(CHECKS))
audit: ## Licences, known weaknesses and sources of the crates: make audit CHECKS=all
	@cargo deny --version >/dev/null 2>&1 && { [ -z "$(AUDIT_ALL)" ] || cargo audit --version >/dev/null 2>&1; } || { echo \
	  "make audit needs cargo-deny and cargo-audit: cargo install --locked cargo-deny cargo-audit"; exit 1; }
	cargo deny --locked $(if $(AUDIT_ALL),,--offline) check $(CHECKS)
	$(if $(AUDIT_ALL),for lock in Cargo.lock fuzz/Cargo.lock benchmarks/limit/Cargo.lock; do cargo audit --file $$lock || exit 1; done)

simulate: ## Play the core in SEEDS simulated worlds (make simulate SEEDS=100000)
	REQTT_SEEDS=$(SEEDS) cargo test --locked --release --package reqtt-core --lib simulation -- --nocapture

# Most tests wait for something. One after the other, for a debugger: make test-python PARALLEL=
PARALLEL ?= -n 3 --dist loadfile
test-python: build $(VENV)/tools peers
	cargo build --release --locked --quiet -p count
	$(BIN)/python -m pytest $(PARALLEL)

interop: build $(VENV)/tools peers ## Try every broker and peer, and write docs/interoperability.md from what they show
	REQTT_INTEROP_RESULTS=tests/interop/results.json $(BIN)/python -m pytest tests/interop --deselect tests/interop/test_report.py
	PYTHONPATH=tests:python $(BIN)/python -m interop.report

conformance: $(VENV)/made ## Write docs/conformance.md from the marks of the tests
	PYTHONPATH=tests $(BIN)/python -m conformance.report

SEED ?= 1
chaos fuzz: SECONDS ?= 60
bench: SECONDS ?= 2

chaos: build $(VENV)/tools ## Requests while connections and processes are broken at random: make chaos SECONDS=60 SEED=1
	PYTHON=$(abspath $(BIN)/python) tests/install-servers.sh
	$(BIN)/python tests/faults/chaos.py --seconds $(SECONDS) --seed $(SEED)

lint: build $(VENV)/tools ## Format and type checks
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo fmt --manifest-path tests/interop/Cargo.toml --all --check
	PYO3_PYTHON=$(abspath $(BIN)/python) cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
	cd benchmarks/limit && cargo fmt --check && cargo clippy --locked --quiet -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest reqtt._core

format: $(VENV)/tools ## Format the sources
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml
	cargo fmt --manifest-path tests/interop/Cargo.toml --all
	cd benchmarks/limit && cargo fmt
	$(BIN)/ruff check --fix --quiet
	$(BIN)/ruff format

# What depends on the interpreter: binding, event loops, threads, and the cases that use most of it.
wheels: build $(VENV)/tools ## Build the abi3 wheel and the sdist, and try them on every CPython from 3.11 up
	tests/wheels.sh tests/cases/test_requester.py tests/cases/test_responder.py tests/test_bind.py tests/test_loops.py \
		tests/test_blocking.py

# Without a venv of its own, since the reference is made from what is installed.
docs: build $(VENV)/tools ## Build the pages and the reference as a site in site/, links and warnings checked
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html -c docs . site
	@echo site/index.html

REQUESTS ?= 1000000
CUTS ?= 100
leaks: build ## A million requests with timeouts, cancellations and cuts: what stays in memory?
	PYTHONPATH=tests $(BIN)/python -m support.leaks $(REQUESTS) $(CUTS)

# A minute for each target, one after the other. What a run finds beyond the corpus goes to fuzz/work, what fails to
# fuzz/artifacts; neither is committed.
FUZZ ?= topics codec requester responder decoder broker
fuzz: ## Feed hostile bytes to codec, session, router and loopback broker: make fuzz SECONDS=60 FUZZ=codec
	@cargo +nightly fuzz --version >/dev/null 2>&1 || { echo \
	  "make fuzz needs a nightly Rust and cargo-fuzz: rustup toolchain install nightly && cargo install cargo-fuzz --version 0.13.2"; \
	  exit 1; }
	@for target in $(FUZZ); do \
	  mkdir -p fuzz/work/$$target && \
	  cargo +nightly fuzz run --fuzz-dir fuzz $$target fuzz/work/$$target fuzz/corpus/$$target -- \
	    -max_total_time=$(SECONDS) -max_len=4096 -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=64 || exit 1; \
	done

# A venv of its own: the libraries that are compared are nobody else's business.
BENCH := .venv-bench
SCENARIO ?= all
ROUNDS ?= 3
RESULTS ?= benchmarks/results
BENCH_OPTIONS ?=

$(BENCH)/made: benchmarks/requirements.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BENCH)/bin/python -m pip install --quiet -r $<
	touch $@

bench: build $(BENCH)/made ## Measure beside the raw limit and other libraries: SCENARIO=all ROUNDS=3 SECONDS=2 RESULTS=folder
	PYTHON=$(abspath $(BIN)/python) tests/install-servers.sh
	PYTHONPATH=python $(BENCH)/bin/python -m benchmarks $(SCENARIO) \
		--rounds $(ROUNDS) --seconds $(SECONDS) --out $(RESULTS) $(BENCH_OPTIONS)

report: $(BENCH)/made ## Write the tables and plots of docs/performance.md from benchmarks/results
	PYTHONPATH=python $(BENCH)/bin/python -m benchmarks report

count: $(VENV)/made ## Count the instructions of a request in the core, and set the figures that the tests hold to
	tests/install-servers.sh
	$(BIN)/python -m benchmarks.instructions --write

clean: ## Remove what was built
	rm -rf $(VENV) $(BENCH) target benchmarks/limit/target fuzz/target dist site tests/interop/.made tests/interop/*/*/node_modules
