"""Ollama: the model with a Modelfile. Format: https://docs.ollama.com/modelfile, its template language Go's text/template."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Final

from edgekit.bundle import model_files, write_json
from edgekit.errors import InputError, UnsupportedModelError
from edgekit.export import Parcel
from edgekit.export.requests import REQUEST
from edgekit.export.requests import ollama as request
from edgekit.export.turns import Turns, turns_of

if TYPE_CHECKING:
    from edgekit.bundle import Manifest
    from edgekit.runtimes.engine import Engine

MODELFILE: Final = "Modelfile"


def write(parcel: Parcel) -> tuple[list[str], list[str]]:
    """The model, its Modelfile, and a request."""
    opened = parcel.opened
    if len(model_files(opened.manifest)) > 1:
        raise InputError(
            "Ollama takes a model in one file", path=opened.folder, found=f"{len(model_files(opened.manifest))} parts",
            next_step="build it without --split-size",
        )  # fmt: skip
    name = re.sub(r"[^a-z0-9._-]", "-", opened.manifest.name.lower())
    now = datetime.now()
    turns = turns_of(parcel.engine, now)
    text = modelfile(parcel.engine, turns, opened.manifest, opened.artifact.name, parcel.context)
    parcel.place(".")
    (parcel.folder / MODELFILE).write_text(text, encoding="utf-8")
    write_json(parcel.folder / REQUEST, request(opened.manifest, name))
    place = shlex.quote(str(parcel.final))
    notes = [
        "its template was proved on conversations; Ollama takes control tokens within a text for real ones"
    ]
    if turns.dated:
        notes.append(
            f"the chat template prints the day; in Ollama it stays {now:%d %b %Y}: export again to move it"
        )
    return [
        f"ollama create {name} -f {place}/{MODELFILE}",
        f"curl http://localhost:11434/api/chat -d @{place}/{REQUEST}",
    ], notes


def modelfile(engine: Engine, turns: Turns, manifest: Manifest, model: str, context: int) -> str:
    """The Modelfile of a GGUF artifact that lies beside it under the name ``model``."""
    lines = [
        f"# {manifest.name} {manifest.version}, {manifest.quantization}, by edgekit",
        f"FROM ./{model}",
        f"TEMPLATE {_quoted(template(turns))}",
    ]
    if manifest.system:
        if "system" not in turns.around:
            raise UnsupportedModelError(
                "the bundle has a system prompt, and its chat template no place for one in Ollama",
                found=manifest.system[:100], next_step="build it without, or use --to llama-server",
            )  # fmt: skip
        lines.append(f"SYSTEM {_quoted(manifest.system)}")
    lines.append(f"PARAMETER num_ctx {context}")
    if manifest.output_schema is not None:
        lines.append("PARAMETER temperature 0")
    lines += [f"PARAMETER stop {_quoted(text)}" for text in stops(engine)]
    return "\n".join(lines) + "\n"


def stops(engine: Engine) -> list[str]:
    """The texts of the tokens that end an answer."""
    return sorted(text for text, token in engine.specials.items() if token in engine.eos_ids)


def template(turns: Turns) -> str:
    """The turns in Go's template language; every text is a string in it, so that none is taken for an action."""
    return "".join(_template(turns))


def _template(turns: Turns) -> Iterator[str]:
    if turns.bare:
        yield f"{{{{ if not .System }}}}{_text(turns.bare)}{{{{ end }}}}"
    yield "{{ range .Messages }}"
    for at, (role, (before, after)) in enumerate(turns.around.items()):
        yield f'{{{{ {"else if" if at else "if"} eq .Role "{role}" }}}}'
        yield f"{_text(before)}{{{{ .Content }}}}{_text(after)}"
    yield f"{{{{ end }}}}{{{{ end }}}}{_text(turns.answer)}"


def _text(text: str) -> str:
    """Go's quoted strings read what JSON's ASCII form escapes, but for pairs of surrogates, which are written out."""
    if not text:
        return ""
    quoted = "".join(
        json.dumps(char)[1:-1] if ord(char) < 0x10000 else f"\\U{ord(char):08x}" for char in text
    )
    return f'{{{{ "{quoted}" }}}}'


def _quoted(text: str) -> str:
    """As a value over several lines; Ollama's reader drops what Go doesn't print and ends at three quotes."""
    lost = [
        char
        for char in text
        if not (char.isprintable() or char in "\n\t") or (char.isspace() and char not in " \n\t")
    ]
    if '"""' in text or lost:
        raise InputError(
            "a text that a Modelfile can't hold", found=repr(text[:100]),
            expected='no """ and no characters that aren\'t printed', next_step="change the system prompt and build again",
        )  # fmt: skip
    return f'"""{text}"""' if "\n" in text or '"' in text else f'"{text}"'
