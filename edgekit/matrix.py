"""A build's bundles as jobs of a CI system: one entry each, with the command that makes it and the key of its cache."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from edgekit.buildcache import parts
from edgekit.digests import Digests
from edgekit.project import BuildSpec


def matrix(spec: BuildSpec, project: Path | None, cache: Path) -> dict[str, list[dict[str, str]]]:
    """What GitHub Actions takes as ``strategy.matrix``: ``{"include": [{target, name, command, cache_key}]}``.

    ``target`` is empty for a bundle of a quantization that is named. Sources are hashed for the keys, nothing is built.
    """
    digests = Digests(cache)
    found = parts(spec, digests)
    digests.save()
    return {"include": [_entry(part.spec, part.folder.name, part.key, project, cache) for part in found]}


def _entry(spec: BuildSpec, name: str, key: str, project: Path | None, cache: Path) -> dict[str, Any]:
    target = spec.devices[0].name if spec.devices else ""
    which = ["--target", target] if target else ["--quant", spec.quantizations[0]]
    where = ["--project", str(project)] if project else []
    return {
        "target": target,
        "name": name,
        "command": shlex.join(["edgekit", "build", *where, *which, "--cache-dir", str(cache)]),
        "cache_key": f"edgekit-{name}-{key}",
    }
