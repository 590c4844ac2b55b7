#!/usr/bin/env bash
# On a GPU host without network: install a bundle into a folder of its own and run `make bench` from there, without a venv.
#
#   bash scripts/bench_offline.sh BUNDLE [VARIABLE=value ...]
#
# BUNDLE is what scripts/offline_bundle.sh made. The variables are those of `make bench`; GOAL=test-gpu runs the GPU tests
# instead, SITE=<folder> says where to install (default: build/site).
set -euo pipefail

if [ $# -lt 1 ] || [ ! -d "$1/wheels" ]; then
  echo "error: ${1:-BUNDLE}: is no bundle; usage: bash scripts/bench_offline.sh BUNDLE [VARIABLE=value ...]" >&2
  exit 2
fi
bundle=$1
shift
goal=bench
site=build/site
rest=()
for word in "$@"; do
  case $word in
    GOAL=*) goal=${word#GOAL=} ;;
    SITE=*) site=${word#SITE=} ;;
    *) rest+=("$word") ;;
  esac
done

mkdir -p "$site"
site=$(cd "$site" && pwd)
python=${PYTHON:-python3}
"$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$bundle"/wheels/*.whl
cp -r "$bundle"/sgl/. "$site/"
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PATH=$site/bin:$PATH
exec make "$goal" VENV= PYTHON="$python" "${rest[@]}"
