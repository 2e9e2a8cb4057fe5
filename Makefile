# `make help` lists the targets. Each does its own set-up; with nothing changed that takes a second.

PYTHON     ?= python3.11
UV_VERSION := 0.13.9
VENV       := .venv
BIN        := $(VENV)/bin
MEMBERS    := $(wildcard libs/*/pyproject.toml services/*/pyproject.toml)
SOURCES    := libs services
PROTOS     := $(sort $(shell find proto -name '*.proto'))
PROTOC      = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto $(PROTOS:proto/%=%)
PYTEST     := $(BIN)/pytest -q
COMPILE     = $(BIN)/uv pip compile --quiet --python $(BIN)/python --generate-hashes --upgrade \
              --no-header --no-annotate --no-emit-index-url --no-emit-find-links
# After a worker's death xdist waits for ever for the one that takes its place, so none does: the others go on.
SPREAD     := --dist loadfile --no-loadscope-reorder --max-worker-restart=0
# A test that hangs ends with where it stood, and its worker with it; the number is seconds.
HANGS       = -o faulthandler_exit_on_timeout=true -o faulthandler_timeout=

export DO_NOT_TRACK := 1
export FEAST_USAGE := False
export MLFLOW_DISABLE_TELEMETRY := true
export PYDANTIC_DISABLE_PLUGINS := __all__
export ORT_DISABLE_TELEMETRY := 1
export RAY_USAGE_STATS_ENABLED := 0
# Kept bytecode: without it each process that a test starts compiles Penstock anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup images demo demo-edge test test-fast test-slow test-compose check check-style check-types check-imports check-generated check-contracts bench bench-compare gen lock requirements clean-gen

help: ## What there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# -- set-up -----------------------------------------------------------------------------------------------------------------

setup: $(VENV)/.members ## Python environment, Kafka, Triton, Envoy; says first what it downloads
	@$(BIN)/python -m penstock.stack.install

$(VENV)/.uv-$(UV_VERSION):
	@command -v $(PYTHON) >/dev/null || { echo "Penstock needs Python 3.11 as $(PYTHON); or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(if $(filter compose,$(STACK)),,$(PYTHON) libs/stack/penstock/stack/fitness.py)
	@[ -x $(BIN)/uv ] || echo "Set-up downloads about 3.1 GB of Python packages (torch with CUDA is most of it; 6 GB on disk), then Kafka and Triton, 0.1 GB."
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt install python3.11-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@touch $@

$(VENV)/.packages: requirements.lock $(VENV)/.uv-$(UV_VERSION)
	@$(BIN)/uv pip sync --python $(BIN)/python --compile-bytecode --require-hashes requirements.lock
	@touch $@

$(VENV)/.members: $(MEMBERS) $(VENV)/.packages
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(patsubst %/pyproject.toml,-e ./%,$(MEMBERS))
	@touch $@

lock: $(VENV)/.uv-$(UV_VERSION) ## requirements.in → requirements.lock, deploy/kafka/jgo.toml → jgo.lock.toml
	@$(COMPILE) requirements.in --output-file requirements.lock
	@$(COMPILE) --no-deps deploy/triton.in --output-file deploy/triton.lock
	@$(COMPILE) deploy/images/tools.in --output-file deploy/images/tools.txt
	@$(MAKE) --no-print-directory $(VENV)/.members requirements
	@$(BIN)/python -m penstock.stack.jars

requirements:
	@$(BIN)/python deploy/images/requirements.py

# -- what it does -----------------------------------------------------------------------------------------------------------

images: ## The images of services and sites, and the passwords of the compose stack
	@deploy/compose/secrets.sh
	@docker compose --file docker-compose.yml --file deploy/compose/sites.yaml --file deploy/compose/ray.yaml build

# With STACK=compose the stack is docker-compose.yml's, and this machine needs neither Kafka nor Triton.
demo: $(if $(filter compose,$(STACK)),$(VENV)/.members images,setup) ## Census records to a refused model, a fair one, predictions; DOWN=1 ends the stack afterwards, STACK=compose runs it in containers
	@STACK=$(STACK) $(BIN)/python examples/adult-income/demo.py $(if $(DOWN),--down)

demo-edge: $(if $(filter compose,$(STACK)),$(VENV)/.members images,setup) ## Two sites: one is cut off, answers, takes events, comes back; a rollback; a changed package. DOWN=1, STACK=compose as above
	@STACK=$(STACK) $(BIN)/python examples/adult-income/demo_edge.py $(if $(DOWN),--down)

bench: setup ## The figures of docs/performance.md; OF="audits online" measures those parts alone
	@$(BIN)/python -m benchmarks $(OF)

bench-compare: setup ## This tree against REV=…, ten rounds in turn; OF="ingest_throughput …" names the scripts of benchmarks/
	@$(BIN)/python benchmarks/compare.py $(REV) $(OF)

# -- tests ------------------------------------------------------------------------------------------------------------------

# On two cores: the third worker mostly waits, the fourth gives way, as penstock.testing.spread says.
test: setup ## All but the slow ones, and those that need Docker; prints the ten slowest
	@$(PYTEST) -n 4 $(SPREAD) $(HANGS)300 --durations=10 -m "not compose and not docker and not slow"

test-fast: setup ## No broker, no stack, no container
	@$(PYTEST) -n 2 $(SPREAD) $(HANGS)300 -m "not stack and not compose and not docker and not kafka and not process and not slow"

test-compose: setup ## What needs Docker: PostgreSQL, Redis and S3 by the suites of their embedded twins; the compose stack and what it survives
	@$(PYTEST) -n 2 $(SPREAD) $(HANGS)300 -m "docker and not compose and not slow"
	@$(PYTEST) $(HANGS)1200 -m "compose and not slow"

test-slow: setup ## Sweeps and soaks
	@$(PYTEST) -m slow

# -- checks -----------------------------------------------------------------------------------------------------------------

check: setup check-style check-types check-imports check-generated check-contracts ## Style, types, who imports whom, generated files, contracts

check-style: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .

check-types: setup
	@$(BIN)/mypy --config-file pyproject.toml $(SOURCES)

check-imports: setup
	@$(BIN)/lint-imports --config pyproject.toml

check-generated: setup
	@$(BIN)/python deploy/services.py --check
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(PROTOC) --python_out="$$fresh" --grpc_python_out="$$fresh" --mypy_out=quiet:"$$fresh" --mypy_grpc_out=quiet:"$$fresh" && \
	diff -r --brief --exclude=__pycache__ "$$fresh/penstock" libs/stubs/penstock || { echo "The stubs are not those of proto/: run make gen" >&2; exit 1; }
	@$(BIN)/python deploy/images/requirements.py --check
	@$(BIN)/python deploy/observability/dashboards.py --check
	@$(BIN)/python deploy/messages.py --check

check-contracts: setup
	@$(BIN)/python -m penstock.contracts.export --check . .
	@$(BIN)/python tests/contract/compatibility.py
	@$(BIN)/python tests/contract/published.py

gen: setup clean-gen requirements ## Stubs from proto/, schemas and pages from the contracts, dashboards, what each image installs, what lists the services
	@$(BIN)/python deploy/services.py
	@$(PROTOC) --python_out=libs/stubs --grpc_python_out=libs/stubs --mypy_out=quiet:libs/stubs --mypy_grpc_out=quiet:libs/stubs
	@$(BIN)/python -m penstock.contracts.export .
	@$(BIN)/python deploy/observability/dashboards.py
	@$(BIN)/python deploy/messages.py

clean-gen:
	@rm -rf libs/stubs/penstock
