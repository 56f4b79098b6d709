#!/usr/bin/env bash
# Time, threads, entropy, files and processes come from common/runtime alone (DESIGN, section 2). Sources outside it may not
# name the calls below; .ci/call_exceptions lists what may, by file, with a reason.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A forbidden=(
  [clock]='std::chrono|<chrono>|<ctime>|<sys/time\.h>|absl::Now\b|GetCurrentTimeNanos|clock_gettime|gettimeofday|\btime\((NULL|nullptr|0)\)'
  [sleep]='SleepFor|this_thread|\b(u|nano)?sleep\('
  [thread]='std::j?thread\b|<thread>|<mutex>|<shared_mutex>|<condition_variable>|<future>|std::(shared_|recursive_|timed_)?mutex\b|std::async|pthread_create|at::launch'
  [openmp]='#pragma omp (parallel|task|sections|teams)|<omp\.h>|omp_(set|get)_'
  [entropy]='<random>|std::(mt19937|random_device|[a-z_]+_distribution|shuffle)|\b(s?rand|rand_r|drand48)\(|getrandom|/dev/u?random|absl::(BitGen|Uniform)|at::Generator|manual_seed|(at|torch)::(rand[a-z_]*|normal|bernoulli|dropout|multinomial)\(|\.(normal_|uniform_|bernoulli_|random_|exponential_)\('
  [file]='(?<![\w.>:])(?<!\w )(::)?(open|openat|creat|fopen|freopen|mkstemp|mmap|unlink|rename|ftruncate)\(|std::(i|o)?fstream|<fstream>|std::filesystem|<filesystem>'
  [process]='(?<![\w.>:])(?<!\w )(fork|vfork|system|popen|execv[pe]*|posix_spawnp?|kill|getenv|std::getenv|signal|sigaction|std::signal|setenv)\(|std::(getenv|system|signal)\b'
)

# FILE:LINE:TEXT without comments and string literals (includes keep their names).
listing=$(mktemp)
trap 'rm -f "$listing"' EXIT
git ls-files -co --exclude-standard -- '*.h' '*.cc' | grep -Ev '^(tests|common/runtime)/' | while read -r file; do
  [ -f "$file" ] || continue
  sed -E '/^#include/! s/"([^"\\]|\\.)*"/""/g; s,//.*,,' "$file" | grep -n . | sed "s,^,$file:," || true
done > "$listing"

status=0
declare -A used=()
for class in "${!forbidden[@]}"; do
  while IFS= read -r hit; do
    [ -n "$hit" ] || continue
    file=${hit%%:*}
    if grep -q "^$file $class " .ci/call_exceptions; then
      used["$file $class"]=1
    else
      echo "$hit: forbidden outside common/runtime ($class); use the Runtime, or add '$file $class REASON' to .ci/call_exceptions"
      status=1
    fi
  done < <(grep -P "^[^:]*:[0-9]+:.*(${forbidden[$class]})" "$listing" || true)
done
while read -r file class reason; do
  case "$file" in '' | '#'*) continue ;; esac
  if [ -z "$reason" ]; then echo ".ci/call_exceptions: $file $class has no reason"; status=1; fi
  if [ -z "${used["$file $class"]:-}" ]; then echo ".ci/call_exceptions: $file $class is not needed; remove it"; status=1; fi
done < .ci/call_exceptions
[ $status = 0 ] && echo "calls: ${#used[@]} exceptions, each with its reason"
exit $status
