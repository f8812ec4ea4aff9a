# `make` lists the targets.  Every one of them makes .venv on first need and again when requirements.txt changes.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help report test check types lab dashboard course docs bench large lint readme
help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

report: $(READY) ## the main job: run every notebook, write reports/index.html
	@$(BIN)/python -m fedlab report $(ARGS)

test: $(READY) ## everything, three tests at a time: units, notebooks through papermill, browser tests where Chromium is
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder $(ARGS)

check: lint types ## fast feedback, under two minutes: style, types, and the tests that are not slow
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -q -n 2 -m "not slow and not browser and not notebooks" $(ARGS)

lab: $(READY) ## open the course in JupyterLab
	@$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS) notebooks/00_start_here.ipynb

dashboard: $(READY) ## compose, run and compare experiments on one page, in the browser
	@$(BIN)/python -m fedlab dashboard $(ARGS)

course: $(READY) ## student notebooks without solutions, and the solutions, in reports/course
	@$(BIN)/python -m fedlab course

types: $(READY) ## static types of core, client, upload and server
	@$(BIN)/mypy

docs: $(READY) ## pages of the API in reports/api, from the docstrings
	@$(BIN)/python -W ignore -m pdoc --docformat google --output-directory reports/api fedlab
	@echo "$(CURDIR)/reports/api/index.html"

bench: $(READY) ## speed as ratios within one run, about 9 minutes; writes the README's table
	@$(BIN)/python tests/bench/speed.py $(ARGS) && $(BIN)/python tests/readme.py --as-recorded

large: $(READY) ## fine-tune MiniLM at full size, more than an hour; writes data/fine_tuning.csv and the README's table
	@$(BIN)/python tests/bench/large.py $(ARGS) && $(BIN)/python tests/readme.py --as-recorded

lint: $(READY) ## style of code and notebooks; notebooks are committed without outputs
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/ruff check --line-length 125 notebooks && $(BIN)/ruff format --line-length 125 --check notebooks
	@$(BIN)/nbstripout --verify --keep-id --extra-keys="metadata.papermill metadata.widgets cell.metadata.papermill" notebooks/*.ipynb

readme: $(READY) ## regenerate the README's figures and picture from a fresh report (needs Chromium)
	@$(BIN)/python tests/readme.py

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; ok = sys.version_info >= (3, 11); ok or print("fedlab needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + ": choose another one, for example `make PYTHON=python3.12`"); sys.exit(not ok)'
	@echo "making .venv: 1 to 4 minutes, most of it PyTorch"
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile --requirement requirements.txt
	@$(BIN)/python -W ignore -m compileall -q -j 0 .venv/lib >/dev/null || true # on all cores; templates do not compile
	@touch $@
