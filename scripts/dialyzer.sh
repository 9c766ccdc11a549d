#!/bin/sh
# Dialyzer over the beams in a folder. What it knows about OTP and Elixir (the
# PLT) takes a minute or two to make and is kept in the user's cache, one for
# each pair of versions.

set -eu
ebin=$1

elixir_lib=$(elixir -e 'IO.write(Path.dirname(:code.lib_dir(:elixir)))')
versions=$(elixir -e '
  IO.write([System.otp_release(), "-", System.version(), "-",
    to_string(:erlang.system_info(:version))])')
export ERL_LIBS="$elixir_lib"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/snakepit
# This file too, as it says what the table is of.
plt=$cache/$versions-$(cksum <"$0" | tr -d ' ').plt

if [ ! -e "$plt" ]; then
  echo "making Dialyzer's table of OTP and Elixir, once for $versions"
  mkdir -p "$cache"
  fresh=$(mktemp "$cache/plt.XXXXXX")
  trap 'rm -f "$fresh"' EXIT
  # 1 only means that there were warnings about OTP itself.
  dialyzer --quiet --build_plt --output_plt "$fresh" \
    --apps erts kernel stdlib crypto compiler \
    -r "$elixir_lib/elixir/ebin" "$elixir_lib/logger/ebin" \
    "$elixir_lib/mix/ebin" "$elixir_lib/ex_unit/ebin" >"$fresh.log" 2>&1 || {
    status=$?
    [ $status = 2 ] || {
      cat "$fresh.log" >&2
      rm -f "$fresh.log"
      exit $status
    }
  }
  rm -f "$fresh.log"
  mv "$fresh" "$plt"
  trap - EXIT
fi

exec dialyzer --quiet --plt "$plt" --no_check_plt \
  -Wunmatched_returns -Werror_handling \
  -r "$ebin"
