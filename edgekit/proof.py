"""What is proved of a conversion when its headers stand, before a weight is read."""

from __future__ import annotations

from pathlib import Path

from edgekit import worker
from edgekit.errors import InputError
from edgekit.opening import Opened
from edgekit.project import BuildSpec


def usable_threads(spec: BuildSpec) -> int:
    """The threads that were asked for, or the cores that this process may use."""
    from edgekit.profiles.cpu import usable_cores

    return spec.threads or usable_cores()


def prove(inputs: Opened, artifact: Path) -> None:
    """The converted vocabulary must give the same ids as the tokenizer, and end answers where the model does."""
    from edgekit.converters.gguf import probes

    vocabulary = inputs.layout.vocabulary
    assert vocabulary is not None
    tokenizer = inputs.words / vocabulary.file
    parts = vocabulary.name_parts
    if parts and not any(part in inputs.layout.name.lower() for part in parts):
        raise InputError(
            "llama.cpp runs this tokenizer right only in a model of its own name",
            path=tokenizer,
            found=inputs.layout.name,
            expected=f"a name with {' or '.join(parts)}",
            next_step=f"name the build {parts[0]}-{inputs.layout.name}",
        )
    definition = vocabulary.reference() if vocabulary.reference else ""
    texts = probes.of(vocabulary)
    proved = worker.run(worker.Prove(str(artifact), str(tokenizer), texts, definition))
    assert isinstance(proved, worker.Proved)
    if proved.mismatch:
        text, expected, found = proved.mismatch
        raise InputError(
            f"the tokenizer would not survive: {proved.mismatches} probe text(s) get other ids in llama.cpp",
            path=tokenizer,
            found=f"{found[:24]} for {text[:60]!r}",
            expected=f"{expected[:24]}",
            next_step="report the tokenizer; packing it would garble the model's input",
        )
    if missing := vocabulary.ends - set(proved.end_ids):
        raise InputError(
            "the model ends answers with tokens that llama.cpp doesn't stop at",
            path=inputs.words / "generation_config.json",
            found=f"eos_token_id {sorted(missing)}",
            expected=f"among {proved.end_ids}",
            next_step="leave at most three ids in eos_token_id",
        )
