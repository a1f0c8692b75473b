# Each target sets up what it needs. PYTHON picks the interpreter (3.11 or newer); TORCH pins the build of torch,
# since an unpinned one may bring several gigabytes of GPU libraries that a CPU host has no use for. JOBS: tests at a time,
# each with THREADS of torch's, since they share the cores. Most of the thousands of modules that come with torch are never
# imported: each is compiled when it is, and not on installing (--no-compile).
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
JOBS ?= 2
THREADS ?= 1
BIN := $(VENV)/bin

.PHONY: install demo test test-fast board test-board lint format bench clean

install: $(VENV)/.installed

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is older than 3.11; set PYTHON=/path/to/python3.11 or newer"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.created
	$(BIN)/python -m pip install --quiet --no-compile "$(TORCH)" -e .
	@touch $@

$(VENV)/.developing: pyproject.toml $(VENV)/.created
	$(BIN)/python -m pip install --quiet --no-compile "$(TORCH)" -e ".[dev,tflite]"
	@touch $@ $(VENV)/.installed

# The whole idea on this computer: no board, no network, no download.
demo: $(VENV)/.installed
	$(BIN)/pipeline deploy --device local --task digits

lint: $(VENV)/.developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder

test-fast: $(VENV)/.developing
	$(BIN)/python -m pytest -m "not slow"

# The image of an emulated ARM board, in EDGE_BOARD or ~/.cache/edge-pipeline/board; as root on Debian 12.
board:
	@tests/board/image/build.sh

test-board: $(VENV)/.developing board
	$(BIN)/python -m pytest -m board tests/board

format: $(VENV)/.developing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The container images of docker/. BUILD and BUILD_OPTIONS say how (docs/docker.md), such as
# BUILD_OPTIONS="--build-arg BASE=debian:12".
.PHONY: images
BUILD ?= docker build
images:
	$(BUILD) $(BUILD_OPTIONS) --file docker/agent.Dockerfile --tag edge-pipeline-agent .
	$(BUILD) --build-arg AGENT=edge-pipeline-agent --file docker/board.Dockerfile --tag edge-pipeline-board .
	$(BUILD) $(BUILD_OPTIONS) --file docker/host.Dockerfile --tag edge-pipeline-host .
