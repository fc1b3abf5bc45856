#!/bin/sh
# What edgekit.yml does, for any CI system that runs a shell in a folder with an edgekit.toml. One build makes all
# bundles, so sources are read once; what the cache has isn't built. Keep $EDGEKIT_CACHE from run to run.
set -eu
cache=${EDGEKIT_CACHE:-.edgekit-cache}
out=${EDGEKIT_OUT:-dist}

edgekit plan
edgekit build --cache-dir "$cache" -o "$out"
for bundle in "$out"/*/; do
    edgekit verify "$bundle" --replay
done
