#!/bin/sh
# Install the Debian packages that the build needs and that are missing; without root, print the one command that does.
need="gcc g++ make pkg-config libdnnl-dev libpng-dev libjpeg62-turbo-dev libarchive-dev libjansson-dev libxxhash-dev check"
need="$need $*"
command -v dpkg-query >/dev/null 2>&1 || exit 0   # not Debian: the compiler will say what is missing
missing=
for p in $need; do
    dpkg-query -W -f='${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ]; then
    echo "installing:$missing"
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing; } >&2
else
    echo "Packages are missing. Run this once, then make again:" >&2
    echo "  sudo apt-get install -y$missing" >&2
    exit 1
fi
