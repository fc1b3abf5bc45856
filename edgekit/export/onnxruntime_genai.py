"""onnxruntime-genai: the folder as its builder made it, and a script that asks it."""

from __future__ import annotations

import json
import shlex

from edgekit.export import Parcel
from edgekit.export.requests import messages

SCRIPT = "ask.py"
_ASK = '''"""Ask {name} {version}, {precision}. Needs: pip install onnxruntime-genai"""

import json
import sys
from pathlib import Path

import onnxruntime_genai as og

MESSAGES = json.loads({messages!r})
SCHEMA = {schema!r}
CONTEXT = {context}

model = og.Model(str(Path(__file__).parent))
tokenizer = og.Tokenizer(model)
if len(sys.argv) > 1:
    MESSAGES[-1]["content"] = sys.argv[1]
prompt = tokenizer.apply_chat_template(json.dumps(MESSAGES), add_generation_prompt=True)
params = og.GeneratorParams(model)
params.set_search_options(max_length=CONTEXT, do_sample=False)
if SCHEMA:
    params.set_guidance("json_schema", SCHEMA)
generator = og.Generator(model, params)
generator.append_tokens(tokenizer.encode(prompt))
stream = tokenizer.create_stream()
while not generator.is_done():
    generator.generate_next_token()
    print(stream.decode(generator.get_next_tokens()[0]), end="", flush=True)
print()
'''


def write(parcel: Parcel) -> tuple[list[str], list[str]]:
    """The folder's files, and ask.py."""
    manifest = parcel.opened.manifest
    parcel.place(".")
    schema = manifest.output_schema
    text = _ASK.format(
        name=manifest.name.replace('"', "'"), version=manifest.version, precision=manifest.quantization,
        messages=json.dumps(messages(manifest)), schema=None if schema is None else json.dumps(dict(schema)),
        context=parcel.context,
    )  # fmt: skip
    (parcel.folder / SCRIPT).write_text(text, encoding="utf-8")
    return [f"python {shlex.quote(str(parcel.final))}/{SCRIPT}"], []
