# The one entry. `make` alone says what there is.

PYTHON := .venv/bin/python3
# Paths are relative, so that the project may lie anywhere; c_src is one down.
TEST_APP := _build/test/lib/snakepit
CHECK := _build/check
CHECK_APP := $(CHECK)/lib/snakepit
PYTHON_SOURCES := priv/python $(wildcard test/python test/interop test/fault test/downstream)
RUFF := $(PYTHON) -m ruff
NATIVE := $(MAKE) --no-print-directory -C c_src -j$(shell getconf _NPROCESSORS_ONLN)

# Without a UTF-8 locale Elixir warns and misreads file names.
ifeq ($(shell uname -s),Linux)
export LC_ALL := C.UTF-8
endif

.PHONY: help run test check bench build setup clean system system-test \
  setup-test test-c test-stress test-nif-asan test-jitter fuzz test-elixir test-elixir-grpc \
  test-elixir-threads test-python test-fault check-format check-elixir check-build \
  check-c check-dialyzer check-python

help:
	@echo "make run     install what is missing, then drive Python workers from Elixir"
	@echo "make test    install what is missing, then run every test but the next"
	@echo "make test-fault  kill BEAM, spawner and workers in every way (1.5 min)"
	@echo "make check   formats, warnings, lint, Dialyzer, types"
	@echo "make bench   the measurements"
	@echo "make fuzz    parsers on made-up input, SECONDS=60 each"
	@echo "make test-nif-asan  the Elixir tests under AddressSanitizer"
	@echo "make test-jitter  the Elixir tests with threads and processes held up at random"
	@echo "make build   compile"
	@echo "make setup   make the Python environment, .venv"
	@echo "make clean   remove what was built (.venv stays)"

run: system
	@mix do snakepit.setup + run --no-start examples/tour.exs

build: system
	@mix compile

setup: system
	@mix snakepit.setup

clean:
	rm -rf _build

system:
	@scripts/system_deps.sh run

system-test:
	@scripts/system_deps.sh test

setup-test: system-test
	@MIX_ENV=test mix snakepit.setup --dev

# ---- tests ------------------------------------------------------------------

test: setup-test
	+@MAKE="$(MAKE)" scripts/steps.sh test-c test-stress test-elixir \
	  test-elixir-grpc test-elixir-threads test-python

test-c:
	@$(NATIVE) test-c MIX_APP_PATH=../$(TEST_APP)

# The native part without a BEAM, under ThreadSanitizer and AddressSanitizer.
test-stress:
	@$(NATIVE) stress MIX_APP_PATH=../$(TEST_APP)

# The native part in a BEAM whose memory is all malloc's, under
# AddressSanitizer: the suite, and callers, workers and pools in disorder.
test-nif-asan: setup-test
	@scripts/asan.sh

# The suite with the threads of the native part and processes held up at random.
test-jitter: setup-test
	@scripts/jitter.sh

fuzz: SECONDS := 60
fuzz: system-test
	@$(NATIVE) fuzz FUZZ_SECONDS=$(SECONDS) MIX_APP_PATH=../$(TEST_APP)

test-elixir:
	@SNAKEPIT_PYTHON="$(CURDIR)/$(PYTHON)" PARTS=2 scripts/test_parts.sh

# What needs workers once more: over the other carrier, and none of them forked
# but where a test is about that.
test-elixir-grpc:
	@SNAKEPIT_TEST_TRANSPORT=grpc SNAKEPIT_TEST_PREFORK=0 SNAKEPIT_PYTHON="$(CURDIR)/$(PYTHON)" \
	  PARTS=2 scripts/test_parts.sh $$(grep -l Snakepit.Test.Pools test/elixir/*_test.exs)

# What Python code sees and does, in workers with threads.
test-elixir-threads:
	@SNAKEPIT_TEST_PROFILE=thread SNAKEPIT_PYTHON="$(CURDIR)/$(PYTHON)" \
	  mix test $$(grep -l in_profile test/elixir/*_test.exs)

test-python:
	@SNAKEPIT_PROTO_PATH="$(CURDIR)/$(TEST_APP)/ebin" \
	  PYTHONPATH="$(CURDIR)/priv/python" \
	  $(PYTHON) -m pytest -q -p no:cacheprovider -o faulthandler_timeout=300 test/python

# By itself, as it takes longer than all the others of Elixir. Prints figures.
test-fault: setup-test
	@SNAKEPIT_PYTHON="$(CURDIR)/$(PYTHON)" mix test test/fault/*_test.exs

# ---- checks -----------------------------------------------------------------

check: setup-test
	+@MAKE="$(MAKE)" scripts/steps.sh check-format check-elixir check-c \
	  check-dialyzer check-python

check-format:
	@mix format --check-formatted
	@$(RUFF) format --no-cache --check $(PYTHON_SOURCES)

CHECK_BUILD := CI=true CC=gcc MIX_ENV=dev MIX_BUILD_PATH=$(CHECK) mix compile

check-elixir:
	@$(CHECK_BUILD) --force --warnings-as-errors

check-build:
	@$(CHECK_BUILD)

# Every warning an error, from both compilers, in the tests as well. One after the
# other: both make the objects, and would write them at the same time.
check-c: check-build
	@CI=true $(NATIVE) all CC=gcc MIX_APP_PATH=../$(CHECK_APP)
	@CI=true $(NATIVE) test-programs fixtures CC=gcc MIX_APP_PATH=../$(CHECK_APP)
	@CI=true $(NATIVE) all CC=clang MIX_APP_PATH=../$(CHECK)-clang
	@CI=true $(NATIVE) test-programs fixtures CC=clang \
	  MIX_APP_PATH=../$(CHECK)-clang
	@$(NATIVE) lint MIX_APP_PATH=../$(CHECK_APP)

check-dialyzer: check-build
	@scripts/dialyzer.sh $(CHECK_APP)/ebin

check-python:
	@$(RUFF) check --no-cache $(PYTHON_SOURCES)
	@cd priv/python && ../../$(PYTHON) -m mypy --strict \
	  --cache-dir ../../$(CHECK)/mypy

# ---- measurements -----------------------------------------------------------

bench: setup
	$(if $(filter-out 0,$(QUICK)),,@$(NATIVE) bench-c)
	@mix run --no-start bench/run.exs $(if $(filter-out 0,$(QUICK)),--quick)
