# make train   virtual environment, install, the main job
# make test    virtual environment, install, tests
# make check   what CI runs: format, lint, types, tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install train test check format zoo release-function-small release-function release-editing-small release-editing release-matching-small release-matching benchmarks clean

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "python: expected 3.11 or newer, got $$($(PYTHON) --version). Set PYTHON=python3.11."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt -e ".[test]"
	touch $@

install: $(INSTALLED)

train: $(INSTALLED)
	$(BIN)/python -m metamodel.train

# A process for each core, each with one thread: together they would only wait for each other.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test: $(INSTALLED)
	$(TESTS)

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(TESTS)

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# RUN=runs/function-small/<time> chooses a run; by default the newest finished one.
release-function-small: $(INSTALLED)
	$(BIN)/python -m metamodel.release function-small $(RUN)

# The released editor, from nothing: zoo of edits, editor, report: two hours on two cores. The small one trains a third as long.
release-editing-small: $(INSTALLED)
	$(BIN)/python -m metamodel.train --config configs/editing/small.yaml
	$(BIN)/python -m metamodel.release editing-small

release-editing: $(INSTALLED)
	$(BIN)/python -m metamodel.train --config configs/editing/full.yaml
	$(BIN)/python -m metamodel.release editing

# The released matcher, from nothing: zoo of triples, zoo of pairs, matcher, report. The small one from the default zoo.
release-matching-small: $(INSTALLED)
	$(BIN)/python -m data_gen.build --config configs/zoo/small.yaml
	$(BIN)/python -m metamodel.train --config configs/matching/small.yaml
	$(BIN)/python -m metamodel.release matching-small

release-matching: $(INSTALLED)
	$(BIN)/python -m data_gen.build --config configs/zoo/medium.yaml
	$(BIN)/python -m metamodel.train --config configs/matching/full.yaml
	test -f data/students-small/students.json || $(BIN)/python -m data_gen.student --config configs/student/small.yaml
	$(BIN)/python -m metamodel.release matching --students data/students-small

# The released reader, from nothing: zoo, labels measured again, readers, report. Hours on two cores.
release-function: $(INSTALLED)
	$(BIN)/python -m data_gen.build --config configs/zoo/medium.yaml
	$(BIN)/python -m data_gen.remeasured data/medium
	$(BIN)/python -m metamodel.train --config configs/function/full.yaml
	$(BIN)/python -m metamodel.release function

benchmarks: $(INSTALLED)
	$(BIN)/python benchmarks/stacked_training.py

clean:
	rm -rf $(VENV) build dist *.egg-info
