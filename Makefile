# Every target makes its own environment in .venv, works from nothing, and does nothing twice.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help quickstart test lint format coverage compat docs benchmark arena clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

.venv/environment:
	@echo "==> making .venv with $$($(PYTHON) --version)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools wheel
	@touch $@

.venv/train: .venv/environment pyproject.toml constraints.txt
	@echo "==> installing hf_effattn and what training needs (some minutes)"
	$(BIN)/python -m pip install --quiet --no-build-isolation --constraint constraints.txt --editable '.[train]'
	@touch $@

.venv/dev: .venv/environment pyproject.toml constraints.txt
	@echo "==> installing hf_effattn and what its tests need (some minutes)"
	$(BIN)/python -m pip install --quiet --no-build-isolation --constraint constraints.txt --editable '.[dev]'
	@touch $@ .venv/train

quickstart: .venv/train ## train three models on film reviews, compare them, write a page about it
	@echo "==> training into runs/quickstart (eight minutes on two cores)"
	$(BIN)/python -m training_scripts.quickstart

lint: .venv/dev ## check format, style, types, and which room imports which
	@echo "==> ruff, mypy and import-linter"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

format: .venv/dev ## bring the code into format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: lint ## lint, then run every test, transformers' own common model tests included
	@echo "==> fetching transformers' common model tests"
	$(BIN)/python -m tests.upstream.fetch
	@echo "==> pytest"
	$(BIN)/python -m pytest --numprocesses 2

coverage: .venv/dev ## run the tests and say which lines they reach
	$(BIN)/python -m tests.upstream.fetch
	$(BIN)/python -m pytest --numprocesses 2 --cov --cov-report term-missing

compat: .venv/dev ## run a part of the tests on the oldest, a middle and the newest transformers, and exchange checkpoints
	$(BIN)/python -m tests.compat.run

.venv/docs: .venv/environment pyproject.toml constraints.txt
	@echo "==> installing hf_effattn and what builds its documentation (some minutes)"
	$(BIN)/python -m pip install --quiet --no-build-isolation --constraint constraints.txt --editable '.[docs]'
	@touch $@

docs: .venv/docs ## build the documentation site into site/, with every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

.venv/bench: .venv/environment pyproject.toml constraints.txt
	@echo "==> installing hf_effattn and the libraries that it is measured against (some minutes)"
	$(BIN)/python -m pip install --quiet --no-build-isolation --constraint constraints.txt --editable '.[bench]'
	@touch $@ .venv/train

benchmark: .venv/bench ## measure operators and models against their peers (half an hour on a quiet machine)
	$(BIN)/python -m training_scripts.benchmark.run

arena: .venv/train ## train all variants on all tasks of the CPU arena, or what is missing, and write RESULTS.md (hours)
	status=0; for part in run guesses padding memory costs report; do \
		$(BIN)/python -m training_scripts.arena.$$part || status=1; \
	done; exit $$status

clean: ## remove the environment and the caches, but no results
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist site *.egg-info
