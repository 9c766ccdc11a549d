#!/bin/sh
# Runs Elixir tests with the native part under AddressSanitizer and UBSan, and
# threads held up at random (test/c/jitter.c). The BEAM's own allocators are
# off, so that what is used after it was freed is seen, resources too.
#
#   scripts/asan.sh [arguments of mix test]
set -eu
cd "$(dirname "$0")/.."

build=$PWD/_build/asan
reports=$build/report
mkdir -p "$build"
rm -f "$reports".*

export VARIANT=asan CC=gcc
export MIX_ENV=test MIX_BUILD_PATH="$build"
export SNAKEPIT_PYTHON="$PWD/.venv/bin/python3"
# Beforehand, for the compiler is slow under what follows.
${MAKE:-make} --no-print-directory -C c_src -j2 all \
  MIX_APP_PATH="$build/lib/snakepit"

export ERL_FLAGS="+Mea min"
# What the BEAM and Python leave at their end is no concern of ours.
export ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:log_path=$reports"
export UBSAN_OPTIONS=print_stacktrace=1
LD_PRELOAD=$(gcc -print-file-name=libasan.so)
export LD_PRELOAD
# build_test.exs builds with compilers and flags of its own.
if [ $# -eq 0 ]; then
  set -- $(ls test/elixir/*_test.exs | grep -v build_test) test/fault/stress.exs
fi
status=0
mix test --exclude not_under_asan "$@" || status=$?
unset LD_PRELOAD

for report in "$reports".*; do
  if [ -f "$report" ]; then
    cat "$report" >&2
    status=1
  fi
done
exit $status
