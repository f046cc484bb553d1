# `make demo` shows what tricnn does, `make test` checks it. Both make .venv first if it is not there.
# Another interpreter: make PYTHON=python3.12 setup

PYTHON = python3
VENV   = .venv
PY     = $(VENV)/bin/python
# Made last: while it is there, and no older than what it was made from, the environment is whole.
READY  = $(VENV)/.ready

# How long things take on 2 cores, said before they start.
DEMO  = LeNet compiled for an H100, its kernels verified, trained on handwritten digits: 1 to 3 minutes on 2 cores
TESTS = every test that needs neither a GPU nor much time: 3 to 10 minutes on 2 cores
PAGES = the lecture's notebooks, run and built as pages in out/notebooks: 4 to 6 minutes on 2 cores
SETUP = a few minutes, 1 to 3 GB

.DEFAULT_GOAL := help
.PHONY: help setup demo about-demo test about-test notebooks about-notebooks docs compat check format bench gpu clean FORCE

help:
	@echo "make setup    the environment, in $(VENV): $(SETUP)"
	@echo "make demo     $(DEMO)"
	@echo "make test     $(TESTS)"
	@echo "make notebooks  $(PAGES)"
	@echo "make docs     the documentation as a site, in out/site: under a minute"
	@echo "make compat   other people's networks, with torch 2.14, in an environment of its own: 6 GB, then hours"
	@echo "make check    ruff and mypy"
	@echo "make format   let ruff format the sources"
	@echo "make bench    with a GPU, times beside PyTorch's (at most 9 minutes); without one, exact figures and predictions"
	@echo "make gpu      the GPU test-and-benchmark suite, in one command"
	@echo "make clean    remove $(VENV) and what the tools leave"

setup: $(READY)

# Torch's build (CPU, CUDA) follows pip's configuration; its version must be settled in the same call as everything
# else, or another package's wider range brings another one. Only Triton comes in calls of its own, without what depends
# on it: a CUDA build of torch asks for the older one it was tested with (constraints.txt says why that is not taken).
# Before the rest, so that a CPU build, which asks for none, fetches no other one; and after it.
TRITON = triton==3.9.0
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "tricnn needs Python 3.11 or newer; try: make PYTHON=python3.12 $(or $(MAKECMDGOALS),setup)" >&2; exit 1; }
	@# Without the mark the environment was never finished, or is being made anew: begin again.
	@if [ -z "$(ANEW)" ] && [ -e $(READY) ] && $(PY) -m pip --version >/dev/null 2>&1; then rm -f $(READY); \
	    else rm -rf $(VENV); $(PYTHON) -m venv $(VENV); fi
	@# A dot every two seconds for as long as this shell lives; byte code is compiled on all cores, pip knows one.
	@printf 'Installing tricnn and what it needs into $(VENV) ($(SETUP)) '; \
	    while sleep 2 && kill -0 $$$$ 2>/dev/null; do printf .; done & dots=$$!; \
	    install="$(PY) -m pip install -qq --no-compile --disable-pip-version-check"; \
	    $$install --no-deps $(TRITON) && $$install -c constraints.txt -e '.[dev]' && $$install --no-deps $(TRITON); \
	    status=$$?; \
	    $(PY) -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1; \
	    kill $$dots; [ $$status = 0 ] && echo ' done' || { echo; exit $$status; }
	@touch $(READY)

# An interpreter named on the command line that is not the environment's: make the environment anew.
ifeq ($(origin PYTHON),command line)
ifneq ($(shell $(PYTHON) -V 2>&1),$(shell $(PY) -V 2>&1))
$(READY): FORCE
ANEW = yes
endif
endif

# What it is and how long it takes comes first, before an environment is made for it.
about-demo:
	@echo "$(DEMO)"

demo: about-demo setup
	@$(PY) -m tricnn.cli.demo

about-test:
	@echo "$(TESTS)"

# Not -q: how many tests there are is said before the first one, and the total at the end. Tests start some hundred
# processes: byte code is kept, whatever the caller's setting, or each would compile tricnn's sources again; and each of
# pytest's two processes has one that compiles kernels. Neighbours stay together, for they share what is made once.
test: about-test setup
	@PYTHONDONTWRITEBYTECODE= TRICNN_WORKERS=1 OMP_NUM_THREADS=1 \
	    $(PY) -m pytest -n 2 --dist worksteal -m "not slow and not gpu and not compat"

about-notebooks:
	@echo "$(PAGES)"

notebooks: about-notebooks setup
	@OMP_NUM_THREADS=1 $(PY) notebooks/build.py

# Its packages are not part of the default environment; with the names that pyproject.toml has, they leave the rest alone.
docs: setup
	@$(PY) -c 'import mkdocs, material, mkdocstrings_handlers.python' 2>/dev/null || \
	    $(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt $$($(PY) -c 'import tomllib; \
	    print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet && echo out/site/index.html

# An environment of its own, with torch 2.14 and what needs a torch that is not this project's. First the tests of what
# lives in PyTorch's world: imports, Module, the backend, torchvision's transforms, TensorBoard, Lightning. Then other
# people's networks are tried: benchmarks/coverage.py, docs/coverage.md. Those that are on record are passed over, so the
# sweep goes on where it was ended: say which networks with MODELS, how far with STAGE, and with AGAIN=stale that those
# which an older commit has looked at are looked at again, which takes hours.
COMPAT = .venv-compat
IN_COMPAT = tests/frontends tests/run/test_open_step.py tests/training/test_pictures.py tests/training/test_recipe_parts.py \
    tests/test_three_commands.py tests/test_lightning.py
MODELS = torchvision:*
STAGE  = logits
AGAIN  = missing
compat: $(COMPAT)/.ready
	@OMP_NUM_THREADS=1 $(COMPAT)/bin/python -m pytest -q -m "not gpu" $(IN_COMPAT)
	@OMP_NUM_THREADS=1 $(COMPAT)/bin/python -m benchmarks.coverage --models '$(MODELS)' --stage $(STAGE) --again $(AGAIN)
	@$(COMPAT)/bin/python -m benchmarks.coverage_page && echo docs/coverage.md

$(COMPAT)/.ready: constraints-compat.txt
	@echo "Installing torch 2.14 and other people's networks into $(COMPAT): about ten minutes, 6 GB"
	@$(PYTHON) -m venv $(COMPAT)
	@install="$(COMPAT)/bin/python -m pip install -qq --no-compile --disable-pip-version-check"; \
	    $$install --no-deps $(TRITON) && $$install -r constraints-compat.txt -e . && $$install --no-deps $(TRITON)
	@touch $@

check: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: setup
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

bench: setup
	@$(PY) -m benchmarks.suite

gpu: setup
	@$(PY) -m benchmarks.gpu_suite

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find benchmarks docs examples graphs kernels notebooks tests tricnn -name __pycache__ -prune -exec rm -rf {} +
