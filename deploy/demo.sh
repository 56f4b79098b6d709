#!/usr/bin/env bash
# Three sites with different languages and different ranks train one adapter together, on this machine, over real gRPC
# with TLS. Sets up, builds, runs the federation, trains each site alone for comparison, prints a table.
#
#   deploy/demo.sh [--rounds N] [--steps N] [--out DIR]
#
#   --rounds N   federated rounds (default 2)
#   --steps N    local steps per round (default 4); a site alone trains rounds x steps steps
#   --out DIR    where the results go (default out/demo): report.json, adapter/ (the final adapter as a PEFT directory),
#                rounds/N/SITE/ (what each site sent), logs/
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
usage() { sed -n '2,11s/^# \{0,1\}//p' deploy/demo.sh; }
misuse() { echo "demo.sh: $*" >&2; usage >&2; exit 2; }

rounds='' steps='' out=$root/out/demo tune=0
while [ $# -gt 0 ]; do
  case "$1" in
    --rounds | --steps | --out)
      [ $# -ge 2 ] || misuse "$1 needs a value"
      [ "$1" = --out ] || [[ $2 =~ ^[1-9][0-9]{0,4}$ ]] || misuse "$1 takes a number from 1, found '$2'"
      case "$1" in --rounds) rounds=$2 ;; --steps) steps=$2 ;; --out) out=$2 ;; esac
      shift 2 ;;
    --tune) tune=1; shift ;;  # runs the grid of learning rates on the development split; see deploy/demo/README.md
    -h | --help) usage; exit 0 ;;
    *) misuse "unknown option '$1'" ;;
  esac
done

source deploy/demo/lib.sh
deploy/setup.sh --build --demo
build_programs
prepare "$out"
if [ $tune = 1 ]; then tune_rates; exit 0; fi
started=$SECONDS
federate "$rate_federated" "$out"
train_all_alone "$out/single" $(for site in "${sites[@]}"; do rate_of "$site"; done)
evaluate_all
python3 deploy/demo/report.py table --out "$out" --recipe "$recipe" | tee "$out/table.txt"
echo
echo "Took $((SECONDS - started)) s after set-up and build. Figures: $out/report.json; adapter for HF PEFT: $out/adapter"
tail -n 2 "$out/table.txt" | grep . | tail -n 1
