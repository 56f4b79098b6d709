#!/usr/bin/env bash
# Every source is as clang-format would write it.
set -euo pipefail
cd "$(dirname "$0")/.."
report=$(mktemp)
trap 'rm -f "$report"' EXIT
mapfile -t files < <(git ls-files -co --exclude-standard -- '*.h' '*.cc' '*.cu' '*.cuh' | while read -r file; do [ -f "$file" ] && echo "$file"; done)
if ! clang-format --dry-run -Werror "${files[@]}" 2> "$report"; then
  grep -oE '^[A-Za-z0-9_./]+\.(h|cc|cu|cuh):[0-9]+:' "$report" | sort -t: -k1,1 -u | sed 's/$/ not formatted; run clang-format -i on the file/'
  exit 1
fi
echo "format: ${#files[@]} files"
