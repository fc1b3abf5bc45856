"""The model card of a bundle, README.md as Hugging Face shows it: all of it from the manifest, so the same bytes each time."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from edgekit.bundle import File, Manifest, Source, model_files
from edgekit.card_figures import measured
from edgekit.files import sha256
from edgekit.markdown import Plain, block, code, front_matter, paragraph, table, words

CARD: Final = "README.md"
LICENCES: Final = frozenset({
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "unlicense", "openrail",
    "bigscience-openrail-m", "bigcode-openrail-m", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "gemma",
})  # fmt: skip
"""Those that Hugging Face knows by these names, of models' licences."""
_LIBRARIES: Final = {"gptq": "transformers", "awq": "transformers"}
"""What Hugging Face shows how to load it with, where that isn't the format's name."""
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def add(folder: Path, manifest: Manifest) -> Manifest:
    """Write the card into a bundle's folder, in place of an old one; the manifest that lists it."""
    data = render(manifest).encode()
    (folder / CARD).write_bytes(data)
    others = [file for file in manifest.files if file.path != CARD]
    card = File(CARD, len(data), sha256(folder / CARD))
    return msgspec.structs.replace(manifest, files=sorted([*others, card], key=lambda file: file.path))


def render(manifest: Manifest) -> str:
    """The card; it says nothing that the manifest doesn't. ``BundleError`` for evidence that isn't sound."""
    parts = [
        front_matter(_front(manifest)),
        f"# {words(manifest.name)} {words(manifest.version)}, {words(manifest.quantization)}",
        _summary(manifest),
        "## Intended use",
        paragraph(manifest.intended_use)
        if manifest.intended_use
        else "None was stated by those who built it.",
        "## Licence",
        _licence(manifest),
        "## What it was made from",
        *_made_from(manifest),
        "## How it was quantized",
        *_quantized(manifest),
        "## How it was measured",
        *measured(manifest),
        "## What it needs",
        *_needs(manifest),
        "## How it is asked",
        *_asked(manifest),
    ]
    return "\n\n".join(parts) + "\n"


def _front(manifest: Manifest) -> dict[str, Plain]:
    found: dict[str, Plain] = {}
    licence = manifest.provenance.licence
    if licence and licence.lower() in LICENCES:
        found["license"] = licence.lower()
    elif licence:
        found |= {"license": "other", "license_name": licence}
    base = manifest.provenance.base.name
    if _REPOSITORY.fullmatch(base):
        found |= {"base_model": base, "base_model_relation": "quantized"}
    found |= {
        "library_name": _LIBRARIES.get(manifest.format, manifest.format),
        "pipeline_tag": "text-generation",
    }
    return found | {"tags": [manifest.format, manifest.quantization.lower().replace("_", "-"), "edgekit"]}


def _summary(manifest: Manifest) -> str:
    made, files = manifest.provenance, model_files(manifest)
    size = sum(file.size for file in files)
    adapters = ""
    if made.adapters:
        count = "an adapter" if len(made.adapters) == 1 else f"{len(made.adapters)} adapters"
        adapters = f" with {count} merged in"
    return (
        f"{code(made.base.name)}{adapters}, quantized to {words(manifest.quantization)}: {size:,} bytes of "
        f"{words(manifest.format.upper())} in {len(files)} {'file' if len(files) == 1 else 'files'}, for "
        f"{words(manifest.requirements.runtime)}. Release {manifest.counter}. `manifest.json` has all of this and more, and "
        "`edgekit verify` checks every file against it."
    )


def _licence(manifest: Manifest) -> str:
    licence = manifest.provenance.licence
    if licence:
        return f"{paragraph(licence)}, as stated by those who built it."
    return "None was stated. Those of the base and the adapters hold."


def _made_from(manifest: Manifest) -> Iterator[str]:
    made = manifest.provenance
    rows = list(_digests("base", made.base))
    for adapter in made.adapters:
        weight = 1.0 if adapter.weight is None else adapter.weight
        rows += _digests(f"adapter, weight {weight:g}", adapter)
    yield table(["what", "name", "file", "bytes", "SHA-256"], rows)
    yield (
        "Built with "
        + ", ".join(f"{words(name)} {words(version)}" for name, version in made.tools.items())
        + "."
    )
    yield "It holds:"
    yield table(
        ["file", "bytes", "SHA-256"],
        [[code(file.path), f"{file.size:,}", file.sha256] for file in model_files(manifest)],
    )


def _digests(what: str, source: Source) -> Iterator[list[str]]:
    for file in source.files:
        yield [what, code(source.name), code(file.path), f"{file.size:,}", words(file.sha256)]


def _converted(manifest: Manifest) -> str:
    """By another's converter: what it was asked for, and the data that it saw."""
    asked = ", ".join(
        f"{words(name)} {words(str(value))}"
        for name, value in (manifest.settings or {}).items()
        if value is not None
    )
    text = f"To {words(manifest.quantization)} in {words(manifest.format.upper())}: {asked}."
    if (data := manifest.provenance.calibration) is None:
        return text
    digest = f" (SHA-256 of these {words(data.tokens_sha256)})" if data.tokens_sha256 else ""
    return f"{text} Calibrated on {data.tokens or 0:,} tokens of {code(data.name)}{digest}."


def _quantized(manifest: Manifest) -> Iterator[str]:
    matrix = manifest.provenance.calibration
    if manifest.settings is not None:
        yield _converted(manifest)
    elif matrix is None:
        yield f"To {words(manifest.quantization)}, without an importance matrix."
    else:
        tokens = f" of {matrix.tokens:,} tokens" if matrix.tokens else ""
        digest = f" (SHA-256 of these {words(matrix.tokens_sha256)})" if matrix.tokens_sha256 else ""
        yield (
            f"To {words(manifest.quantization)}, with the importance matrix {code(matrix.name)}{tokens}{digest}: the "
            "error of a weight counts by what it is multiplied with there."
        )
    if (spent := manifest.allocation) is not None:
        kinds = Counter(spent.types.values())
        rounding = "with error feedback (GPTQ)" if spent.rounding == "feedback" else "to the nearest"
        yield (
            f"Types were allocated by tensor: {code(spent.asked)} was asked for, {spent.bits:.4g} bits a weight were "
            f"spent, rounded {rounding}."
        )
        yield table(
            ["type", "tensors"], [[code(kind), f"{count:,}"] for kind, count in sorted(kinds.items())]
        )
        if spent.candidates:
            yield f"What was tried, by KL divergence on {spent.tokens:,} held-out calibration tokens:"
            yield table(
                ["candidate", "bytes", "KL divergence, nats", "taken"],
                [
                    [code(c.name), f"{c.size:,}", f"{c.kld:.4g}", "yes" if c.kept else ""]
                    for c in spent.candidates
                ],
            )


def _needs(manifest: Manifest) -> Iterator[str]:
    needs, target = manifest.requirements, manifest.target
    if target is not None:
        yield (
            f"Built for {code(target.name)} ({words(target.architecture)}, {words(target.runs_on)}): {target.memory:,} "
            f"bytes of memory with a context of {target.context:,} tokens; {target.decode_tps:.3g} tokens a second "
            "were predicted there."
        )
    yield f"Memory by length of context, predicted for {words(needs.runtime)}:"
    yield table(
        ["tokens of context", "bytes of memory"],
        [[words(context), f"{nbytes:,}"] for context, nbytes in needs.memory.items()],
    )


def _asked(manifest: Manifest) -> Iterator[str]:
    if manifest.prompt is None:
        yield "It comes without a prompt of its own."
    else:
        yield "The prompt; `{text}` is the input:"
        yield block(manifest.prompt)
    if manifest.system is not None:
        yield "The system message:"
        yield block(manifest.system)
    if manifest.output_schema is not None:
        yield "The JSON schema that answers are held to:"
        yield block(json.dumps(manifest.output_schema, indent=2, ensure_ascii=False), "json")
    yield "With edgekit, in this folder:"
    yield block("edgekit run . -p 'Hello'", "sh")
