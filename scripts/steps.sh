#!/bin/sh
# Makes the targets in order, says how long each took, stops at the first that
# fails.

for step in "$@"; do
  echo "== $step"
  start=$(date +%s)
  ${MAKE:-make} --no-print-directory "$step" || {
    status=$?
    echo "== $step failed after $(($(date +%s) - start)) s" >&2
    exit $status
  }
  echo "== $step: $(($(date +%s) - start)) s"
done
