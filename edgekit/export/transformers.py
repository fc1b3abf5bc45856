"""transformers: a GPTQ or AWQ folder, and a script that asks it."""

from __future__ import annotations

import json
import shlex
from typing import Final

from edgekit.export import Parcel
from edgekit.export.requests import messages

SCRIPT: Final = "ask.py"
_ASK: Final = '''"""Ask {name} {version}, {precision}. Needs: pip install gptqmodel optimum transformers"""

import json
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

MESSAGES = json.loads({messages!r})

folder = Path(__file__).parent / "model"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, device_map="auto")
if len(sys.argv) > 1:
    MESSAGES[-1]["content"] = sys.argv[1]
prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**prompt.to(model.device), max_new_tokens=512, do_sample=False)
print(tokenizer.decode(answer[0][prompt["input_ids"].shape[1] :], skip_special_tokens=True))
'''


def write(parcel: Parcel) -> tuple[list[str], list[str]]:
    """model/ and ask.py."""
    manifest = parcel.opened.manifest
    parcel.place("model")
    text = _ASK.format(
        name=manifest.name.replace('"', "'"), version=manifest.version, precision=manifest.quantization,
        messages=json.dumps(messages(manifest)),
    )  # fmt: skip
    (parcel.folder / SCRIPT).write_text(text, encoding="utf-8")
    notes = ["transformers holds no answer to a schema"] if manifest.output_schema is not None else []
    return [f"python {shlex.quote(str(parcel.final))}/{SCRIPT}"], notes
