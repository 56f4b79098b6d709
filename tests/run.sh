#!/usr/bin/env bash
# Sets up, builds Release into build/, runs the tests; ends with CTest's summary.
#
#   tests/run.sh [ARGUMENTS OF CTEST...]      e.g. tests/run.sh -R common_config
set -euo pipefail
cd "$(dirname "$0")/.."

deploy/setup.sh --build
# Objects are found again by a checkout in another folder.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release > build-configure.log 2>&1 || {
  cat build-configure.log >&2
  rm -f build-configure.log
  echo "run.sh: configuring failed" >&2
  exit 1
}
mv build-configure.log build/configure.log

# A LibTorch translation unit takes about 2 GB.
jobs=$(nproc)
memory_gb=$(awk '/MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
if [ $((memory_gb / 2)) -lt "$jobs" ]; then jobs=$((memory_gb / 2 > 1 ? memory_gb / 2 : 1)); fi
if [ -t 1 ]; then
  ninja -C build -j "$jobs"
else
  # A log has no use for a line a file.
  NINJA_STATUS='[%f/%t] ' ninja -C build -j "$jobs" | awk '/^\[[0-9]+\/[0-9]+\]/ { if (++n % 50 == 0) print; next } { print }'
fi

ctest --test-dir build -j2 --output-on-failure "$@" 2>&1 | tee build/ctest.log
