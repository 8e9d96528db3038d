#!/bin/sh
# Write requirements.lock anew: resolve pyproject.toml's extras in an empty environment, and freeze what came.
# TORCH is the version of PyTorch, by default the one locked now; PYTHON should be 3.11, the oldest supported.
set -eu
cd "$(dirname "$0")/.."

torch=${TORCH:-$(sed -n 's/^torch==//p' requirements.lock)}
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
"${PYTHON:-python3}" -m venv "$room/venv"
"$room/venv/bin/python" -m pip install --no-input -e '.[course,dev,hub,site,structured]' "torch==$torch" \
    'llguidance<1.7' # later ones have no builds for the systems of PyTorch's own oldest (glibc 2.28)

{
    echo "# Made by \`make lock\`: the exact version of everything. Do not edit by hand."
    echo "# Not listed: the CUDA packages, which PyTorch's own build asks for where it needs them."
    "$room/venv/bin/python" -m pip freeze --all --exclude pip --exclude-editable |
        sed 's/+[A-Za-z0-9.]*$//' | grep -vE '^(nvidia-|cuda-|triton)'
    echo "appnope==0.1.4 ; sys_platform == 'darwin'" # IPython asks for it there
} >"$room/requirements.lock"
mv "$room/requirements.lock" requirements.lock
