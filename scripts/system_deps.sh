#!/bin/sh
# System packages for `make run` (run) or for `make test` and `make check`
# (test). On Debian and Ubuntu root installs what is missing; an ordinary user,
# and everybody elsewhere, is told what to install. Says nothing and starts no
# program when nothing is missing.

set -u
packages=
brew=
missing=

want() { # <Debian package> <Homebrew formula or -> <what it is for>
  packages="$packages $1"
  [ "$2" = - ] || brew="$brew $2"
  missing="$missing
  $1 ($3)"
}
program() { command -v "$1" >/dev/null 2>&1; }
file() { # is there a file for one of these patterns?
  for match in "$@"; do
    [ -e "$match" ] && return 0
  done
  return 1
}
header() {
  for prefix in /usr/include /usr/local/include /opt/homebrew/include \
    /usr/include/nanopb /usr/local/include/nanopb; do
    [ -e "$prefix/$1" ] && return 0
  done
  file /usr/include/*-linux-gnu*/"$1"
}
# Erlang from Debian comes in pieces; any other is taken to be complete.
erlang_piece() {
  otp=/usr/lib/erlang
  case $(command -v erl) in
  "" | /usr/bin/erl | /bin/erl) file "$otp/lib/$1"-*/ebin/"$1.app" ;;
  esac
}

run_packages() {
  program elixir || want elixir elixir "Elixir and Erlang"
  erlang_piece ssl || want erlang-ssl - "TLS, for mix"
  erlang_piece inets || want erlang-inets - "HTTP, for mix"
  case $(command -v erl) in
  "" | /usr/bin/erl | /bin/erl)
    file /usr/lib/erlang/usr/include/erl_nif.h ||
      want erlang-dev - "Erlang's C headers"
    ;;
  esac
  program cc || want gcc - "C compiler"
  header stdlib.h || [ "$(uname -s)" = Darwin ] ||
    want libc6-dev - "C library headers"
  program pkg-config || want pkg-config pkg-config "finds the C libraries"
  header grpc/grpc.h || want libgrpc-dev grpc "gRPC C core"
  program protoc || want protobuf-compiler protobuf "protocol compiler"
  header google/protobuf/any.proto ||
    want libprotobuf-dev protobuf "protobuf's own messages"
  program grpc_python_plugin ||
    want protobuf-compiler-grpc grpc "gRPC code for Python"
  program protoc-gen-nanopb || want nanopb nanopb "protobuf code for C"
  header pb_decode.h || want libnanopb-dev nanopb "protobuf in C"
  header uv.h || want libuv1-dev libuv "event loop of the spawner"
  header hwloc.h || want libhwloc-dev hwloc "processor topology"
  program python3 || program python || want python3 python "Python"
  # The system's Python needs these; one that somebody installed has them.
  case $(command -v python3) in
  "" | /usr/bin/python3 | /bin/python3)
    program uv || file /usr/lib/python3.[0-9]*/ensurepip/__init__.py \
      /Library/Developer/* || want python3-venv - "Python environments"
    file /usr/include/python3.[0-9]*/Python.h /Library/Developer/* ||
      want python3-dev - "Python's C headers"
    ;;
  esac
}

test_packages() {
  header cmocka.h || want libcmocka-dev cmocka "C tests"
  header dlpack/dlpack.h || want libdlpack-dev - "tensor headers, to compare ours with"
  program node || want nodejs node "workers in JavaScript"
  program clang || want clang llvm "second compiler, fuzzing"
  file /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-* \
    /usr/lib/clang/*/lib/linux/libclang_rt.fuzzer-* /Library/Developer/* ||
    want libclang-rt-dev - "sanitizers"
  program clang-tidy || want clang-tidy llvm "C lint"
  program clang-format || want clang-format clang-format "C format"
  erlang_piece dialyzer || want erlang-dialyzer - "Dialyzer"
}

case ${1-} in
run) run_packages ;;
test)
  run_packages
  test_packages
  ;;
*)
  echo "usage: $0 run|test" >&2
  exit 2
  ;;
esac
[ -n "$packages" ] || exit 0

if [ "$(uname -s)" = Darwin ]; then
  echo "snakepit: these are missing:$missing" >&2
  echo "Run: brew install$(echo "$brew" | tr ' ' '\n' | sort -u | tr '\n' ' ')" >&2
  exit 1
elif ! program apt-get; then
  echo "snakepit: these are missing (Debian's names):$missing" >&2
  echo "Install them with this system's package manager." >&2
  exit 1
fi

[ "$(id -u)" != 0 ] || apt-get update -qq || exit 1

# The name of the sanitizers' package has clang's version in it.
case $packages in
*libclang-rt-dev*)
  version=$(apt-cache depends clang 2>/dev/null |
    sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p' | head -n 1)
  name=libclang-rt-${version:-14}-dev
  packages=$(echo "$packages" | sed "s/libclang-rt-dev/$name/")
  missing=$(echo "$missing" | sed "s/libclang-rt-dev/$name/")
  ;;
esac

install="apt-get install -y --no-install-recommends$packages"
if [ "$(id -u)" != 0 ]; then
  echo "snakepit: these are missing:$missing" >&2
  echo "Run: sudo $install" >&2
  exit 1
fi

echo "snakepit: installing with apt-get what is missing:$missing"
log=$(mktemp) || exit 1
# shellcheck disable=SC2086
if DEBIAN_FRONTEND=noninteractive $install >"$log" 2>&1 </dev/null; then
  rm -f "$log"
else
  cat "$log" >&2
  rm -f "$log"
  echo "snakepit: apt-get could not install them (see above)" >&2
  exit 1
fi
