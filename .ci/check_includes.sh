#!/usr/bin/env bash
# Who may include whom (DESIGN, section 2). Two tables: a room and the rooms that it may see; a library's headers and the
# places that may see them. The first row whose pattern matches the file decides.
set -euo pipefail
cd "$(dirname "$0")/.."

# FILE-PATTERN  ROOMS (regular expressions on the included path)
rooms='
^kernels/                     ^kernels/
^common/                      ^(common|proto|kernels)/
^server/(round|aggregate|store|service)/  ^(common|proto|kernels|SELF)/
^server/ctl/                  ^(common|proto|kernels|server/ctl|server/aggregate)/
^server/                      ^(common|proto|kernels|server)/
^client/                      ^(common|proto|kernels|client)/
^deploy/                      ^(common|proto|kernels|server|client|deploy)/
'
# HEADER-PATTERN  FILES THAT MAY
libraries='
^yaml-cpp/                    ^common/config/
^nlohmann/                    ^(common/(config|adapter|format)|client/(data|export|model|train)|server/ctl|deploy/simulator)/|^client/(cmd_|standard_output)
^openssl/                     ^common/secure/
^(spdlog|prometheus)/         ^common/telemetry/
^(sqlite3\.h|pqxx)            ^server/store/
^(lapacke|cblas)\.h           ^(common/linalg|server/aggregate)/
^httplib                      ^server/web/
^(grpc|grpcpp)/               ^(server/(service|ctl)|client/link)/|^server/(server|main)\.cc|^client/(client|cmd_run)\.cc|^deploy/simulator/
^proto/.*\.grpc\.pb\.h        ^(server/(service|ctl)|client/link)/|^deploy/simulator/
^proto/.*\.pb\.h              ^(common/(config|adapter|wire)|server/(service|ctl)|client/link|deploy/simulator)/|^server/[a-z_]+\.(h|cc)
^pcre2\.h                     ^client/data/|^common/adapter/
^unicode/                     ^client/data/
^zstd\.h                      ^client/data/
^(arrow|parquet)/             ^client/data/parquet_rows\.cc
^CLI/                         ^(server/(main\.cc|ctl/)|client/(main\.cc|commands\.h|cmd_)|deploy/simulator/)
^(ATen|c10|torch)/            ^client/(model|peft|train)/
^(cuda|cublas|cusolver)       ^(kernels|client/(model|peft|train))/
'

status=0
refuse() { echo "$1:$2: $3"; status=1; }

check_room() { # FILE LINE HEADER
  local pattern allowed folder=${1%/*}
  while read -r pattern allowed; do
    [ -n "$pattern" ] || continue
    [[ $1 =~ $pattern ]] || continue
    [[ $3 =~ ${allowed/SELF/$folder} ]] || refuse "$1" "$2" "includes $3; this room may see only ${allowed/SELF/$folder}"
    return 0
  done <<< "$rooms"
}

check_library() { # FILE LINE HEADER
  local pattern allowed
  while read -r pattern allowed; do
    [ -n "$pattern" ] || continue
    [[ $3 =~ $pattern ]] || continue
    [[ $1 =~ $allowed ]] || refuse "$1" "$2" "includes $3, which only $allowed may"
    return 0
  done <<< "$libraries"
}

count=0
while IFS=: read -r file line text; do
  [[ $text =~ [\<\"]([^\>\"]+) ]] || continue
  header=${BASH_REMATCH[1]}
  count=$((count + 1))
  case "$header" in
    kernels/* | common/* | server/* | client/* | deploy/* | tests/*) check_room "$file" "$line" "$header" ;;
    proto/* | */* | *.h | *.hpp) check_library "$file" "$line" "$header" ;;
  esac
done < <(git ls-files -co --exclude-standard -- '*.h' '*.cc' '*.cu' | grep -Ev '^tests/' | while read -r f; do [ -f "$f" ] && echo "$f"; done |
         xargs grep -nHE '^#include')
[ $status = 0 ] && echo "includes: $count checked"
exit $status
