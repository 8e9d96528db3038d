# Everything that a learner or a maintainer types. `make` alone lists it.
#   PYTHON=python3.12 make lab                     the Python to make .venv with
#   make lab LAB_ARGS="--no-browser --port 9000"   further options for JupyterLab
#   make test-unit PYTEST_ARGS="-k top_p -x"       further options for pytest
#   make test WORKERS=4                            tests side by side (1 GB of memory each); 0: in one process, for --pdb

PY := .venv/bin/python
WORKERS := 2
PYTEST := $(PY) -m pytest --numprocesses=$(WORKERS) $(PYTEST_ARGS)
marked = -m $(1) $(shell grep -l 'mark\.$(1)' tests/test_*.py)# the others need not be read
NBVAL := --nbval-current-env --nbval-cell-timeout=600 --nbval-kernel-startup-timeout=300 --nbval-sanitize-with=notebooks/sanitize.cfg

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help packages venv model lab update doctor test lint types test-unit test-parity test-notebooks test-browser test-site test-hub test-gpu sweep fragile format notebooks bench bench-quick bench-growth bench-waits bench-outside bench-sampler bench-widgets bench-kernels slides site kit lock clean

# Tests and notebooks never wait for a network, and leave idle cores to others.
test-unit test-parity test-notebooks test-browser test-site test-hub test-gpu notebooks: export HF_HUB_OFFLINE = 1
test-unit test-parity test-notebooks test-browser test-site test-hub test-gpu notebooks: export TOKENIZERS_PARALLELISM = false
test-unit test-parity test-notebooks test-browser test-site test-hub test-gpu notebooks: export OMP_WAIT_POLICY = PASSIVE

# What they compare with was computed on a CPU; a card is test-gpu's.
test-unit test-parity test-notebooks test-browser test-site test-hub notebooks: export CUDA_VISIBLE_DEVICES =

help: ## list the targets
	@awk -F ':.*## ' '/^##@ / { print "\n" substr($$0, 5) } /^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

##@ Learn

lab: packages ## prepare everything, and open the course in JupyterLab
	@$(PY) -m folovllm lab $(LAB_ARGS)

update: packages ## pull the newest course and its packages; your answers are kept
	@$(PY) -m folovllm course update
	@sh scripts/make_venv.sh course

doctor: packages ## check this machine
	@$(PY) -m folovllm doctor

model: packages ## prepare the bundled model (once)
	@$(PY) -m folovllm model

packages: ## make .venv with the locked packages of the course, or bring it up to date
	@sh scripts/make_venv.sh course

clean: ## delete .venv and all caches in this folder; the bundled model stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info
	find folovllm tests scripts notebooks -name __pycache__ -prune -exec rm -rf {} +

##@ Teach

slides: packages ## write slides of all notebooks, in both languages, to build/slides (they need no network once written)
	$(PY) -m folovllm course slides --output build/slides
	$(PY) -m folovllm course --notebooks notebooks/zh slides --output build/slides/zh

kit: packages ## all that a room without a network needs, in build/kit (KIT=FOLDER: in another folder)
	@sh scripts/make_kit.sh

site: venv model ## build the course as a web site, from stored outputs, in build/site
	@$(PY) site/build_site.py build/site

##@ Develop: tests

venv: ## make .venv with all locked packages: those of the course, of tests and of development
	@sh scripts/make_venv.sh all

test: lint types test-unit test-parity test-notebooks test-browser test-hub ## all that CI runs

lint: venv ## style, formatting, and which module may import which
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	.venv/bin/lint-imports

types: venv ## mypy, strict
	$(PY) -m mypy

test-unit: venv ## all tests that need no bundled model; quick
	$(PYTEST) -m "not bundled and not browser and not hub and not site" tests

test-parity: venv model ## the tests on the bundled model: tokens equal to HuggingFace's
	$(PYTEST) --dist=loadfile -m "bundled and not browser and not hub and not site" tests

test-notebooks: venv model ## run every notebook in both languages, its cells again as learners do, and compare every output
	rm -rf build/reruns
	$(PY) scripts/write_reruns.py build/reruns notebooks/*.ipynb
	$(PYTEST) --dist=loadfile --nbval $(NBVAL) build/reruns

test-browser: venv model ## run every notebook in JupyterLab in a headless Chromium; its pictures: build/screenshots
	@sh scripts/ensure_chromium.sh
	$(PYTEST) $(call marked,browser)

test-site: venv model ## build the web site, and read it in Chromium; runs before publishing, not in make test
	@sh scripts/ensure_chromium.sh
	$(PYTEST) --numprocesses=0 $(call marked,site)

test-hub: venv model ## two learners run a notebook at the same time on a JupyterHub, each in a headless Chromium
	@sh scripts/ensure_chromium.sh
	@sh scripts/ensure_hub_proxy.sh
	$(PYTEST) $(call marked,hub)

test-gpu: venv ## what your card does: tests, notebooks, speed beside others; one table, one file to send in
	$(PY) benchmarks/gpu.py $(GPU_ARGS) -- -p no:xdist --nbval-lax $(NBVAL) notebooks

sweep: venv ## try every causal-LM family of transformers: HuggingFace's tokens, or refused in a sentence; a minute
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) scripts/sweep_families.py

fragile: model ## name cells whose texts hang on the last bits of logits: another CPU may write others; five minutes
	HF_HUB_OFFLINE=1 $(PY) scripts/find_fragile_draws.py notebooks/*.ipynb

##@ Develop: the rest

format: venv ## let ruff mend style and formatting
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

notebooks: model ## run every notebook, in both languages, and store its outputs
	$(PY) scripts/execute_notebooks.py notebooks/*.ipynb notebooks/zh/*.ipynb

lock: ## resolve the newest versions into requirements.lock (TORCH=2.x.y picks PyTorch's)
	sh scripts/make_lock.sh

##@ Measure

bench: model ## measure speed, waits and memory beside Hugging Face (about 25 minutes; BENCH_ARGS=--help)
	$(PY) benchmarks/run.py $(BENCH_ARGS)

bench-quick: model ## the same with short outputs, one round, two engines (under 3 minutes)
	$(PY) benchmarks/run.py --quick $(BENCH_ARGS)

bench-growth: model ## measure how costs grow with sequences, context and remembered blocks
	$(PY) benchmarks/growth.py $(BENCH_ARGS)

bench-waits: model ## measure what a learner waits for: imports, loading, the first token
	$(PY) benchmarks/waits.py $(BENCH_ARGS)

bench-outside: model ## measure what a decoding step spends outside the model, by what requests ask of the sampler
	$(PY) benchmarks/outside.py $(BENCH_ARGS)

bench-sampler: model ## measure the sampler beside Hugging Face's warpers
	$(PY) benchmarks/sampler.py $(BENCH_ARGS)

bench-widgets: venv model ## measure how long a learner waits for a widget's picture
	@sh scripts/ensure_chromium.sh
	PYTHONPATH=. $(PY) benchmarks/widgets.py

bench-kernels: model ## measure the memory of 1, 4 and 8 notebooks
	$(PY) benchmarks/notebook_kernels.py
