#!/bin/sh
# Make .venv with the locked packages, or bring it up to date: those that a learner needs ("course"), or all.
# Quick when nothing changed; what an interrupted run left behind is made anew.
# PYTHON names the interpreter; by default the first below that the locked packages have builds for.
set -eu
cd "$(dirname "$0")/.."

level=${1:-all}
oldest=11 newest=14 # Python 3.x
marker=.venv/.made-by-make # what the environment was made from, or "unfinished" while pip works on it
log=.venv/pip.log
cpu_index=https://download.pytorch.org/whl/cpu

die() {
    echo "folovllm: $*" >&2
    exit 1
}

has_nvidia_card() { # under Linux, and under WSL
    [ -e /proc/driver/nvidia/version ] || [ -e /dev/dxg ] || command -v nvidia-smi >/dev/null
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
    if has_nvidia_card; then needed_gib=8; else needed_gib=3; fi
    [ "$(free_kib .)" -ge $((needed_gib * 1024 * 1024)) ] ||
        die "at least $needed_gib GiB of free disk are needed in $PWD; $(($(free_kib .) / 1024)) MiB are free."
    mkdir -p .venv
    echo unfinished >$marker
    # The marker goes last, so that a run that is stopped here is still known as unfinished.
    find .venv -mindepth 1 -maxdepth 1 ! -name "${marker#.venv/}" -exec rm -rf {} +
    "$python" -m venv .venv || die "$python could not make .venv (its message is above)."
}

install() { # what pip says is kept; where somebody watches, its last line is shown
    {
        .venv/bin/python -m pip install --no-input --no-compile "$@" 2>&1 && echo "done"
    } | {
        while IFS= read -r line; do
            printf '%s\n' "$line" >>$log
            [ ! -t 1 ] || printf '\r\033[K%.79s' "$says$line"
        done
        [ ! -t 1 ] || printf '\r\033[K%s' "$says"
    }
    [ "$(tail -n 1 $log)" = "done" ]
}

explain_pip_failure() {
    echo
    tail -n 15 $log >&2
    for folder in . "${TMPDIR:-/tmp}"; do
        [ "$(free_kib "$folder")" -ge $((512 * 1024)) ] || die "the disk of $folder is full: free some space and run the same command again."
    done
    die "pip could not install the locked packages (its message is above). Check the network and run the same command again."
}

# Without a card, the build without CUDA: a tenth of the download. Where its index cannot be reached, the usual way
# goes on.
prefer_small_torch() {
    [ "$(uname)" = Linux ] && ! has_nvidia_card && [ -z "${PIP_NO_INDEX:-}" ] || return 0
    install --no-deps --retries 0 --timeout 10 --index-url $cpu_index "$(grep '^torch==' requirements.lock)" || :
}

# What the environment should be made from, what is installed in it, and where: a clone that was moved is made anew.
current_state() {
    echo "$(cat requirements.lock pyproject.toml | cksum) $(ls -d .venv/lib/*/site-packages/*.dist-info 2>/dev/null | cksum) $PWD"
}

made=$(cat $marker 2>/dev/null || :)
works=$(.venv/bin/python -c 'print("yes")' 2>/dev/null || :)
# Whoever has all packages keeps them, and has those of the course.
for complete in "$level" all; do
    [ "$made $works" != "$complete $(current_state) yes" ] || exit 0
done
case "$made" in "all "*) level=all ;; esac

if [ -z "$made" ] && [ -e .venv ] && ! rmdir .venv 2>/dev/null; then
    die ".venv was not made by this Makefile: move it away, or delete it, and run the same command again."
fi
[ -w . ] || die "you may not write in $PWD: copy the course into a folder of yours, and run the same command there."
case "$made $works" in
*" $PWD yes") echo unfinished >$marker ;; # it works, but holds other versions: pip mends that
*) make_environment ;;
esac
says="1/3 packages ($level): downloaded and installed, one to five minutes ... "
printf '%s' "$says"
begun=$(date +%s)
: >$log
prefer_small_torch
if [ "$level" = all ]; then
    install -r requirements.lock || explain_pip_failure
else
    install --constraint requirements.lock setuptools || explain_pip_failure # what builds the course
fi
install --constraint requirements.lock --no-build-isolation -e '.[course]' || explain_pip_failure
# On all cores: pip compiles on one, and the course not at all. Files for another Python stay as they are.
.venv/bin/python -m compileall -q -j 0 .venv/lib folovllm >>$log 2>&1 || :
echo "done in $(($(date +%s) - begun)) s"
echo "$level $(current_state)" >$marker
