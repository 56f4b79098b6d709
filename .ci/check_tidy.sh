#!/usr/bin/env bash
# clang-tidy over what changed, or over everything.
#
#   .ci/check_tidy.sh [--all] [--minutes N]
#
# Changed means: since the merge base with origin's default branch; in a clone that has nothing beyond it, since the commit
# before HEAD. After N minutes (default 12) no further file is begun, and how many were left is said. Needs build/.
set -euo pipefail
cd "$(dirname "$0")/.."
all=0 minutes=12
while [ $# -gt 0 ]; do
  case "$1" in
    --all) all=1 ;;
    --minutes) minutes=$2; shift ;;
    *) echo "check_tidy.sh: unknown option '$1'" >&2; exit 2 ;;
  esac
  shift
done

sources() { git ls-files -- '*.cc' | while read -r file; do [ -f "$file" ] && echo "$file"; done; }
head=$(git rev-parse HEAD)
base=$(git merge-base HEAD origin/HEAD 2>/dev/null || true)
if [ -z "$base" ] || [ "$base" = "$head" ]; then base=$(git rev-parse HEAD~1 2>/dev/null || true); fi
if [ $all = 1 ] || [ -z "$base" ]; then
  mapfile -t files < <(sources)
else
  # A changed header is seen through the sources that include it by name.
  mapfile -t changed < <(git diff --name-only --diff-filter=d "$base" -- '*.cc' '*.h')
  mapfile -t files < <({
    for file in "${changed[@]}"; do
      case "$file" in
        *.cc) echo "$file" ;;
        *.h) sources | xargs grep -l "#include \"$file\"" | head -2 || true ;;
      esac
    done
  } | sort -u)
fi
# Only what the build compiles has flags.
mapfile -t files < <(for file in "${files[@]}"; do grep -q "\"file\": \"$PWD/$file\"" build/compile_commands.json && echo "$file"; done || true)
if [ ${#files[@]} = 0 ]; then echo "tidy: nothing changed"; exit 0; fi

export STRATA_TIDY_END=$(($(date +%s) + minutes * 60))
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export out
tidy_one() {
  [ "$(date +%s)" -lt "$STRATA_TIDY_END" ] || { echo "$1" >> "$out/left"; return 0; }
  # GCC's own options say nothing to clang.
  clang-tidy -p build --quiet --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-ignored-optimization-argument "$1" \
    > "$out/$(tr / _ <<< "$1").txt" 2> /dev/null || echo "$1" >> "$out/failed"
}
export -f tidy_one
printf '%s\0' "${files[@]}" | xargs -0 -P "$(nproc)" -I{} bash -c 'tidy_one {}'
cat "$out"/*.txt 2>/dev/null | grep -E '(error|warning):' | sed "s|$PWD/||" | sort -u || true
left=$([ -f "$out/left" ] && wc -l < "$out/left" || echo 0)
echo "tidy: $((${#files[@]} - left)) of ${#files[@]} files looked at${left:+, $left left for lack of time}" | sed 's/, 0 left.*//'
[ ! -f "$out/failed" ] || { sed 's/$/: clang-tidy has findings/' "$out/failed"; exit 1; }
