#!/bin/sh
# mix test in parts that run at the same time: PARTS=n test_parts.sh [files ...]
# For tests that wait more than they compute. What the first part says is shown as
# it comes, that of the others when it has ended.
set -eu

parts=${PARTS:-2}
dir=$(mktemp -d)
pids=
trap 'rm -rf "$dir"' EXIT
trap 'kill $pids 2>/dev/null || true; exit 130' INT TERM

# Else all of them would, into the same folder.
MIX_ENV=test mix compile

part=2
while [ "$part" -le "$parts" ]; do
  MIX_TEST_PARTITION=$part mix test --partitions "$parts" "$@" >"$dir/$part" 2>&1 &
  pids="$pids $!"
  part=$((part + 1))
done

status=0
MIX_TEST_PARTITION=1 mix test --partitions "$parts" "$@" || status=$?
part=2
for pid in $pids; do
  wait "$pid" || status=$?
  echo "== part $part of $parts"
  cat "$dir/$part"
  part=$((part + 1))
done
exit "$status"
