"""edgekit verify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command("verify", epilog="Example: edgekit verify dist/restaurant-q4_k_m --replay")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--replay", is_flag=True, help="Also load the model and replay its golden probes.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(bundle: Path, replay: bool, as_json: bool) -> None:
    """Check BUNDLE's sizes and SHA-256 digests, and that nothing else lies in its folder."""
    from edgekit.bundle import Bundle
    from edgekit.cli.output import print_json
    from edgekit.errors import BundleError
    from edgekit.units import size

    opened = Bundle.open(bundle)
    problems = opened.problems()
    total = sum(file.size for file in opened.manifest.files)
    result: dict[str, Any] = {
        "bundle": str(bundle), "name": opened.manifest.name, "version": opened.manifest.version,
        "files": len(opened.manifest.files), "bytes": total, "problems": problems, "replay": None,
    }  # fmt: skip
    if replay and not problems:
        result["replay"] = _replay(opened)
        problems = problems + result["replay"]["differences"]
    if as_json:
        print_json(result | {"ok": not problems})
    if problems:
        raise BundleError("the bundle is not what was built", path=bundle, found="; ".join(problems[:5]))
    if not as_json:
        click.echo(f"{bundle}: {len(opened.manifest.files)} files, {size(total)}, all digests match")
        if result["replay"]:
            probes, largest = result["replay"]["probes"], result["replay"]["largest_difference"]
            click.echo(f"replayed {probes} probes: same ids and prompts, logits within {largest:.4f}")


def _replay(opened: Any) -> dict[str, Any]:
    from edgekit import golden
    from edgekit.engines import plain
    from edgekit.profiles.cpu import usable_cores

    recorded = golden.read(opened)
    with opened.verified() as artifact:
        engine = plain(artifact, n_ctx=512, threads=usable_cores())
    try:
        found = golden.replay(engine, recorded)
    finally:
        engine.close()
    return {"differences": found.differences, "probes": found.probes, "largest_difference": found.largest}
