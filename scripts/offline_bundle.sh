#!/usr/bin/env bash
# Collect what an offline GPU host lacks into one folder of at most 40 MB: the harness's Python packages, and of sgl_kernel
# its Python files and the library for compute capability 9.0 (its whole wheel has 320 MB, mostly attention kernels).
#
#   bash scripts/offline_bundle.sh [FOLDER]     (default: build/bundle; also `make bundle`)
#
# Made for hosts with Linux x86-64, Python 3.12, torch 2.11.0 for CUDA 13, triton 3.6.0 and numpy. On such a host:
#
#   bash scripts/bench_offline.sh FOLDER SOLUTIONS="sglang_v2 triton_v2"
set -euo pipefail

folder=${1:-build/bundle}
python=${PYTHON:-python3}
limit_mb=40

platforms=()
for glibc in 2_34 2_28 2_27 2_24 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
download() {
  "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --dest "$@"
}

if [ -e "$folder" ] && [ ! -d "$folder/wheels" ] && [ -n "$(ls -A "$folder")" ]; then
  echo "error: BUNDLE: $folder exists and is no earlier bundle; name another folder" >&2
  exit 2
fi
rm -rf "$folder"
mkdir -p "$folder/wheels"
# --no-deps keeps out torch and flashinfer-python (over 1 GB, and not needed to run), so all needs are named.
download "$folder/wheels" \
  flashinfer-bench==0.1.2 apache-tvm-ffi==0.1.15.post2 sgl-deep-gemm==0.1.2 docstring-parser==0.18.0 \
  pydantic==2.14.3 pydantic-core==2.50.4 annotated-types==0.8.0 typing-extensions==4.16.0 typing-inspection==0.4.5 \
  typer==0.29.2 click==8.5.1 shellingham==1.5.4 annotated-doc==0.0.7 \
  rich==15.0.0 markdown-it-py==4.3.0 mdurl==0.1.2 pygments==2.21.0 \
  jinja2==3.1.6 markupsafe==3.0.4 pyyaml==6.0.3 safetensors==0.8.0 filelock==4.2.12 nvidia-ml-py==13.615.71 \
  pytest-xdist==3.8.0 execnet==2.1.2

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
download "$scratch" sglang-kernel==0.4.3
"$python" - "$scratch" "$folder/sgl" <<'PY'
import pathlib
import sys
import zipfile

wheel = next(pathlib.Path(sys.argv[1]).glob("sglang_kernel-*.whl"))
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        python = name.startswith("sgl_kernel/") and name.endswith(".py")
        library = name.startswith("sgl_kernel/sm90/")
        metadata = ".dist-info/" in name  # so that the version can be asked for
        if python or library or metadata:
            archive.extract(name, sys.argv[2])
PY

size=$(du -sm "$folder" | cut -f1)
echo "$folder: $size MB"
if [ "$size" -gt "$limit_mb" ]; then
  echo "error: $folder: $size MB is over the limit of $limit_mb MB; leave packages out in $0" >&2
  exit 1
fi
