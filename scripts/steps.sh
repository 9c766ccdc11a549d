#!/bin/sh
# Makes the targets in order, says how long each took, stops at the first that
# fails. One that hangs is ended, so that it is known which one it was: a step
# takes five minutes at most on two slow cores.
limit=
if timeout --foreground -k 1 9 true 2>/dev/null; then limit='timeout --foreground -k 30 1800'; fi

for step in "$@"; do
  echo "== $step"
  start=$(date +%s)
  $limit ${MAKE:-make} --no-print-directory "$step" || {
    status=$?
    if [ $status = 124 ]; then why='hung'; else why='failed'; fi
    echo "== $step $why after $(($(date +%s) - start)) s" >&2
    exit $status
  }
  echo "== $step: $(($(date +%s) - start)) s"
done
