#!/usr/bin/env bash
# The LoRA step beside Hugging Face PEFT: each case runs once with strata-bench and once with the peer, in turn, several
# times over; medians and ratios at the end, every line of JSON in OUT/lines.jsonl.
#
#   tests/bench/compare.sh --model DIR [--python PYTHON] [--peers DIR] [--gsm8k FILE] [--repeats N] [--steps N] [--out DIR]
#       [--cases LIST]
#
# PYTHON needs what the head of PEERS/peft_step.py names. Cases, comma-separated: fp32 (batch 1), fp32x4 (batch 4), bf16,
# bf16x4, gsm8k and gsm8k-bf16 (need the file). A case in bf16 runs beside the peer all in bf16, with its default (fp32
# adapters over a bf16 base) and in fp32. On a processor without bf16 products the peer takes minutes for a bf16 step:
# leave those cases out there. Default: fp32,fp32x4.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
model='' python=python3 peers=$here/../shared/peers gsm8k='' repeats=3 steps=4 out=${TMPDIR:-/tmp}/strata-compare cases=fp32,fp32x4
usage() { sed -n '2,11s/^# \{0,1\}//p' "$0"; }
while [ $# -gt 0 ]; do
  case "$1" in --*) [ "$1" = --help ] || [ $# -gt 1 ] || { echo "compare.sh: $1 lacks its value" >&2; exit 2; } ;; esac
  case "$1" in
    --model) model=$2 ;;
    --python) python=$2 ;;
    --peers) peers=$2 ;;
    --gsm8k) gsm8k=$2 ;;
    --repeats) repeats=$2 ;;
    --steps) steps=$2 ;;
    --out) out=$2 ;;
    --cases) cases=$2 ;;
    -h | --help) usage; exit 0 ;;
    *) echo "compare.sh: unknown option '$1'" >&2; usage >&2; exit 2 ;;
  esac
  shift 2
done
bench=$here/build/bin/strata-bench
[ -n "$model" ] || { echo "compare.sh: --model is missing" >&2; usage >&2; exit 2; }
[ -x "$bench" ] || { echo "compare.sh: $bench is missing: ninja -C build strata-bench" >&2; exit 1; }
[ -f "$peers/peft_step.py" ] || { echo "compare.sh: no peft_step.py in $peers" >&2; exit 1; }
"$python" -c 'import peft, transformers' 2> /dev/null || { echo "compare.sh: $python has no peft: see the head of $peers/peft_step.py" >&2; exit 1; }
mkdir -p "$out"
: > "$out/lines.jsonl"

# The same rows as the peer reads: prompt and newline, answer, end of text.
rows() {
  "$python" - "$gsm8k" "$out/gsm8k.jsonl" << 'PY'
import json, sys
with open(sys.argv[1], encoding="utf-8") as source, open(sys.argv[2], "w", encoding="utf-8") as rows:
    for line in source:
        row = json.loads(line)
        rows.write(json.dumps({"prompt": row["question"] + "\n", "completion": row["answer"]}) + "\n")
PY
}

keep() { # CASE WHO: one line of JSON from standard input
  "$python" -c 'import json, sys
line = json.loads(sys.stdin.read().strip().splitlines()[-1])
print(json.dumps({"case": sys.argv[1], "who": sys.argv[2], **line}))' "$1" "$2" | tee -a "$out/lines.jsonl" | cut -c1-160 >&2
}

one() { # CASE DTYPE BATCH [DATA]
  local ours=(train --model "$model" --dtype "$2" --batch "$3" --steps "$steps") theirs=(--model "$model" --batch "$3" --steps "$steps" --threads "$(nproc)" --no-floor)
  if [[ "$1" = gsm8k* ]]; then
    ours+=(--data "$out/gsm8k.jsonl") theirs+=(--data "$gsm8k")
  fi
  "$bench" "${ours[@]}" | keep "$1" strata
  local settings=("$2") setting
  [ "$2" = fp32 ] || settings=(bf16 bf16-fp32lora fp32)
  for setting in "${settings[@]}"; do
    HF_HUB_OFFLINE=1 "$python" "$peers/peft_step.py" "${theirs[@]}" --dtype "$setting" 2> "$out/peft.log" |
      keep "$1" "peft ${setting/bf16-fp32lora/default}"
  done
}

for ((i = 0; i < repeats; ++i)); do
  for case in ${cases//,/ }; do
    case "$case" in
      fp32) one fp32 fp32 1 ;;
      fp32x4) one fp32x4 fp32 4 ;;
      bf16) one bf16 bf16 1 ;;
      bf16x4) one bf16x4 bf16 4 ;;
      gsm8k | gsm8k-bf16)
        [ -n "$gsm8k" ] || { echo "compare.sh: the case $case needs --gsm8k FILE" >&2; exit 2; }
        [ -f "$out/gsm8k.jsonl" ] || rows
        if [ "$case" = gsm8k ]; then one "$case" fp32 8; else one "$case" bf16 8; fi
        ;;
      *) echo "compare.sh: unknown case '$case'" >&2; exit 2 ;;
    esac
  done
done

"$python" - "$out/lines.jsonl" << 'PY'
import json, statistics, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
median = lambda case, who, key: statistics.median(l[key] for l in lines if l["case"] == case and l["who"] == who)
print(f"{'case':10} {'who':14} {'tokens/s':>9} {'peak MB':>8} {'start s':>8} {'ours: tokens/s':>15} {'memory':>7} {'start':>6} {'of floor':>9}")
for case in dict.fromkeys(l["case"] for l in lines):
    ours = {key: median(case, "strata", key) for key in ("tok_s", "peak_rss_mb", "first_step_s", "floor_share")}
    for who in dict.fromkeys(l["who"] for l in lines if l["case"] == case):
        rate, memory, start = (median(case, who, key) for key in ("tok_s", "peak_rss_mb", "first_step_s"))
        row = f"{case:10} {who:14} {rate:9.1f} {memory:8.0f} {start:8.2f}"
        if who == "strata":
            print(row + " " * 32 + f"{ours['floor_share']:8.2f}")
        else:
            print(row + f" {ours['tok_s'] / rate:14.2f}x {ours['peak_rss_mb'] / memory:6.2f}x {ours['first_step_s'] / start:5.2f}x")
PY
