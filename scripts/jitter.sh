#!/bin/sh
# Runs Elixir tests with the native part's threads (test/c/jitter.c) and the
# application's processes (test/elixir/support/holds.ex) held up at random:
# what otherwise shows in one run of many.
#
#   scripts/jitter.sh [arguments of mix test]
set -eu
cd "$(dirname "$0")/.."

export VARIANT=jitter MIX_ENV=test MIX_BUILD_PATH="$PWD/_build/jitter"
export SNAKEPIT_PYTHON="$PWD/.venv/bin/python3"
export SNAKEPIT_TEST_HOLD="${SNAKEPIT_TEST_HOLD-6}"
# What is freed is filled.
export MALLOC_PERTURB_=165
# build_test.exs builds with flags of its own.
if [ $# -eq 0 ]; then
  set -- $(ls test/elixir/*_test.exs | grep -v build_test)
fi
exec mix test "$@"
