"""The commented edgekit.toml that ``edgekit init`` writes."""

from __future__ import annotations

import json

from edgekit.errors import InputError
from edgekit.project import NAME

TEMPLATE = """\
# What `edgekit build` makes here. Paths are relative to this file.

name = "{name}"
version = "0.1.0"
counter = 1                      # counts releases up; devices refuse to go back
base = {base}                  # folder of a Hugging Face checkpoint (safetensors)
out = "dist"                     # a bundle per quantization and target: dist/{name}-q4_k_m, dist/{name}-laptop-8gb, …
quantizations = ["Q4_K_M", "Q8_0"]
# format = "onnx"                # or "gptq", "awq": quantizations are then INT4, INT8, …
# llama_cpp = "../llama.cpp"     # its converter is run for models that edgekit doesn't convert
# calibration = "train.jsonl"    # data like what it will see, or edgekit calibrate's file: spends bits where they matter
# imatrix = "imatrix.gguf"       # or llama-imatrix's file; types of about two bits need one
# auto = {{ bpw = 4.5 }}           # for the quantization "auto": or max_size = "2.1GB", or max_kld = 0.02
# refine = true                  # error feedback, where it loses less on the calibration data
# split_size = "2G"              # several files, none with more of tensors than this
# licence = "Apache-2.0"         # of the result; it goes into the manifest
# intended_use = "…"             # what it is meant for; it goes into the model card

[[adapters]]                     # repeat for several; leave out to package the base alone
path = {adapter}
weight = 1.0

[prompt]
# template = "Extract people and date:\\n{{text}}"   # what `extract` asks; {{text}} is the input
# file = "prompt.txt"                              # or from a file
# system = "You answer with JSON."
# schema = "schema.json"                           # JSON Schema that answers must satisfy

# [evaluation]                   # measured before a bundle is published; one that fails a gate is not
# task = "labelled.jsonl"        # labelled records that training has not seen
# text = "text.txt"              # plain text, for perplexity and KL divergence
# gates = ["f1_drop <= 0.01", "kld <= 0.02"]

# [targets.laptop-8gb]           # a bundle for this device; edgekit targets lists them
# context = 2048                 # what is different from its profile; may be empty
# gates = ["decode_tps >= 10"]   # for this bundle only

# [onnx]                         # where the format is ONNX
# block_size = 32
# algorithm = "k_quant"

# [gptq]                         # where it is GPTQ or AWQ
# group_size = 128

# [tensor_types]                 # override the preset: regex on GGUF tensor names = type
# "ffn_down" = "q8_0"
"""


def template(name: str, base: str, adapter: str) -> str:
    """A commented project file."""
    quoted = {
        key: json.dumps(value, ensure_ascii=False) for key, value in (("base", base), ("adapter", adapter))
    }
    if not NAME.fullmatch(name):
        raise InputError("not a name for a bundle", found=name, expected="letters, digits, dot, dash")
    return TEMPLATE.format(name=name, **quoted)
