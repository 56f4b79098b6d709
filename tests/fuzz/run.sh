#!/usr/bin/env bash
# Fuzzes the parsers with libFuzzer and AddressSanitizer, one after another, starting from the committed corpus.
#   tests/fuzz/run.sh [SECONDS_EACH] [TARGET...]     (60; every fuzz_*.cc beside this script)
# What is found lies in build-fuzz/found/TARGET; a crash stops the run and leaves its input there.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
build=${STRATA_FUZZ_BUILD:-$root/build-fuzz}
seconds=${1:-60}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for file in "$here"/fuzz_*.cc; do
    name=$(basename "$file" .cc)
    targets+=("${name#fuzz_}")
  done
fi
compiler=${CXX:-$(command -v clang++ || command -v clang++-14 || true)}
if [ -z "$compiler" ]; then
  echo "fuzzing needs clang++ (apt-get install clang-14)" >&2
  exit 2
fi
# -w: warnings are the ordinary build's business.
cmake -S "$root" -B "$build" -G Ninja -DSTRATA_FUZZ=ON -DCMAKE_CXX_COMPILER="$compiler" \
  -DCMAKE_CXX_FLAGS="-w -fsanitize=fuzzer-no-link,address -fno-omit-frame-pointer" >/dev/null
ninja -C "$build" "${targets[@]/#/fuzz_}"
for target in "${targets[@]}"; do
  found=$build/found/$target
  mkdir -p "$found"
  echo "== $target"
  log=$build/found/$target.log
  if ! (cd "$found" && "$build/tests/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
    -max_len=65536 "$found" "$here/corpus/$target") >"$log" 2>&1; then
    grep -vE '^#[0-9]+|^INFO' "$log" | head -60 >&2
    echo "fuzz_$target failed: the whole log is $log, the input lies in $found" >&2
    exit 1
  fi
  grep -E '^Done ' "$log"
done
