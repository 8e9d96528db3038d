#!/bin/sh
# Make sure that there is a Chromium for the browser tests: the first below that is installed, else Debian's.
set -eu

for name in chromium chromium-browser google-chrome; do
    ! command -v $name >/dev/null || exit 0
done
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "folovllm: the browser tests need Chromium. On Debian: sudo apt install chromium; elsewhere install Google Chrome" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends chromium >/dev/null
