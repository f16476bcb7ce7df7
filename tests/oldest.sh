#!/usr/bin/env bash
# The suite on the oldest versions that requirements.txt allows, in a fresh environment; browsers apart.
# `PYTHON=python3.10 tests/oldest.sh [pytest's arguments]`. Downloads about 4 GB: torch 2.8 comes for CUDA.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/environment"
. "$folder/environment/bin/activate"

# `gradio>=6.28,<7` becomes `gradio==6.28`. Old torch brings its own Triton.
sed -E 's/>=([0-9.]+).*/==\1/' requirements.txt >"$folder/oldest.txt"
grep -v '^triton' tests/requirements.txt >"$folder/tests.txt"
pip install -q -r "$folder/oldest.txt" -r "$folder/tests.txt"
pip list
python -m pytest -m "not browser" "$@"
