#!/bin/sh
# Make .venv with the locked packages, or bring it up to date. Quick when nothing changed;
# what an interrupted run left behind is made anew.
# PYTHON names the interpreter; by default the first below that the locked packages have builds for.
set -eu
cd "$(dirname "$0")/.."

oldest=11 newest=14 # Python 3.x
needed_gib=3
marker=.venv/.made-by-make # what the environment was made from, or "unfinished" while pip works on it

die() {
    echo "folovllm: $*" >&2
    exit 1
}

free_kib() {
    df -Pk "$1" | awk 'NR == 2 { print $4 }'
}

minor_version() { # prints 3.x's x (0 for another Python), nothing where $1 does not run
    "$1" -c 'import sys; print(sys.version_info[1] if sys.version_info[0] == 3 else 0)' 2>/dev/null || :
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3 python3.13 python3.12 python3.11 python3.14; fi
    found=
    for python in "$@"; do
        minor=$(minor_version "$python")
        [ -n "$minor" ] || continue
        [ "$minor" -lt $oldest ] || [ "$minor" -gt $newest ] || return 0
        found="$found $python is 3.$minor."
    done
    die "Python 3.$oldest to 3.$newest is needed; found:${found:- none.} Install one, or name it: make venv PYTHON=/path/to/python3.12"
}

make_environment() {
    find_python
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$python has no venv module. On Debian or Ubuntu: sudo apt install python3.$minor-venv"
    [ "$(free_kib .)" -ge $((needed_gib * 1024 * 1024)) ] ||
        die "at least $needed_gib GiB of free disk are needed in $PWD (7 GiB with PyTorch for NVIDIA cards); $(($(free_kib .) / 1024)) MiB are free."
    mkdir -p .venv
    echo unfinished >$marker
    # The marker goes last, so that a run that is stopped here is still known as unfinished.
    find .venv -mindepth 1 -maxdepth 1 ! -name "${marker#.venv/}" -exec rm -rf {} +
    "$python" -m venv .venv || die "$python could not make .venv (its message is above)."
}

explain_pip_failure() {
    for folder in . "${TMPDIR:-/tmp}"; do
        [ "$(free_kib "$folder")" -ge $((512 * 1024)) ] || die "the disk of $folder is full: free some space and run the same command again."
    done
    die "pip could not install the locked packages (its message is above). Check the network and run the same command again."
}

# What the environment should be made from, what is installed in it, and where: a clone that was moved is made anew.
current_state() {
    echo "$(cat requirements.lock pyproject.toml | cksum) $(ls -d .venv/lib/*/site-packages/*.dist-info 2>/dev/null | cksum) $PWD"
}

made=$(cat $marker 2>/dev/null || :)
works=$(.venv/bin/python -c 'print("yes")' 2>/dev/null || :)
[ "$made $works" != "$(current_state) yes" ] || exit 0

if [ -z "$made" ] && [ -e .venv ] && ! rmdir .venv 2>/dev/null; then
    die ".venv was not made by this Makefile: move it away, or delete it, and run the same command again."
fi
case "$made $works" in
*" $PWD yes") echo unfinished >$marker ;; # it works, but holds other versions: pip mends that
*) make_environment ;;
esac
.venv/bin/python -m pip install --no-input -r requirements.lock || explain_pip_failure
# The build backend, setuptools, is in the lock as well.
.venv/bin/python -m pip install --no-input --quiet --no-deps --no-build-isolation -e . || explain_pip_failure
current_state >$marker
