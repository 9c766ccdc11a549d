#!/bin/sh
# Is everything here that the native part is built from? One line for each
# thing that is missing, and its package. With `test`: what its tests need too.
# Takes CC, PKG_CONFIG, PROTOC, NANOPB_PLUGIN, GRPC_PYTHON_PLUGIN,
# ERTS_INCLUDE_DIR and NANOPB_CPPFLAGS from the environment.

missing=0
need() { # <what> <Debian package> <macOS command>
  echo "snakepit: $1 is missing. Debian/Ubuntu: apt-get install $2 · macOS: $3" >&2
  missing=1
}
note() { # <what> <Debian package> <macOS command>
  echo "snakepit: $1 is missing and what needs it is off." \
    "Debian/Ubuntu: apt-get install $2 · macOS: $3" >&2
}
program() { command -v "$1" >/dev/null 2>&1; }
library() { "$PKG_CONFIG" --exists "$1" 2>/dev/null; }
header() { # <name> [flags]
  name=$1
  shift
  echo "#include <$name>" | $CC "$@" -E - >/dev/null 2>&1
}

program "${CC%% *}" || need "a C compiler ($CC)" gcc "xcode-select --install"
program "$PROTOC" || need protoc protobuf-compiler "brew install protobuf"
program "$NANOPB_PLUGIN" || need protoc-gen-nanopb nanopb "brew install nanopb"
program "$GRPC_PYTHON_PLUGIN" ||
  need grpc_python_plugin protobuf-compiler-grpc "brew install grpc"
[ -f "$ERTS_INCLUDE_DIR/erl_nif.h" ] ||
  need "erl_nif.h (Erlang headers)" erlang-dev "brew install erlang"

if program "${CC%% *}"; then
  # shellcheck disable=SC2086
  header pb_decode.h $NANOPB_CPPFLAGS ||
    need "nanopb's C library" libnanopb-dev "brew install nanopb"
fi
if program "$PROTOC"; then
  "$PROTOC" --descriptor_set_out=/dev/null google/protobuf/any.proto \
    2>/dev/null ||
    need "google/protobuf/any.proto" libprotobuf-dev "brew install protobuf"
fi

if program "$PKG_CONFIG"; then
  library grpc || need "gRPC C core" libgrpc-dev "brew install grpc"
  library libuv || need libuv libuv1-dev "brew install libuv"
  library hwloc ||
    note "hwloc (cpu_affinity by topology)" libhwloc-dev "brew install hwloc"
  [ "$1" != test ] || library cmocka ||
    need cmocka libcmocka-dev "brew install cmocka"
else
  need pkg-config pkg-config "brew install pkg-config"
fi

exit $missing
