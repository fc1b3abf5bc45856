"""Make a random Llama of about 1B parameters, a 128k tokenizer and a rank-16 adapter to measure with."""

from __future__ import annotations

import itertools
import json
import string
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.converters.gguf import pretokenizers

SIZES = {
    # hidden, layers, heads, kv heads, mlp, vocabulary
    "1b": (2048, 16, 32, 8, 8192, 128_256),
    "8b": (4096, 32, 32, 8, 14_336, 128_256),
    "tiny": (256, 2, 4, 2, 512, 4096),
}
SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def linear_shapes(size: str) -> dict[str, tuple[int, int]]:
    """Every linear layer's weight by module name, (out, in)."""
    hidden, layers, heads, kv_heads, mlp, _ = SIZES[size]
    kv = hidden // heads * kv_heads
    kinds = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (mlp, hidden),
        "mlp.up_proj": (mlp, hidden),
        "mlp.down_proj": (hidden, mlp),
    }
    return {f"model.layers.{i}.{kind}": shape for i in range(layers) for kind, shape in kinds.items()}


def weight_shapes(size: str) -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint."""
    hidden, layers, _, _, _, vocabulary = SIZES[size]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    shapes |= {f"{module}.weight": shape for module, shape in linear_shapes(size).items()}
    for i in range(layers):
        shapes[f"model.layers.{i}.input_layernorm.weight"] = (hidden,)
        shapes[f"model.layers.{i}.post_attention_layernorm.weight"] = (hidden,)
    return shapes | {"model.norm.weight": (hidden,)}


def write_safetensors(
    path: Path, shapes: dict[str, tuple[int, ...]], dtype: str, chunks: Iterator[bytes] | None
) -> None:
    """A safetensors file of ``shapes``; without ``chunks`` its data is a hole in the file, read as zeros."""
    header: dict[str, Any] = {}
    offset, item = 0, 2 if dtype == "BF16" else 4
    for name, shape in shapes.items():
        end = offset + int(np.prod(shape)) * item
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for chunk in chunks or ():
            file.write(chunk)
        file.truncate(8 + len(encoded) + offset)


def random_bf16(shapes: dict[str, tuple[int, ...]], seed: int, scale: float) -> Iterator[bytes]:
    """Normal weights, truncated to bfloat16; norms are ones."""
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        left = int(np.prod(shape))
        while left:
            count = min(left, 1 << 22)
            values = (
                np.ones(count, np.float32)
                if "norm" in name
                else rng.standard_normal(count, np.float32) * scale
            )
            yield (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
            left -= count


def tokenizer(vocabulary: int) -> dict[str, Any]:
    """A byte-level BPE tokenizer with Llama 3's pattern and merges of all short lower-case words."""
    byte_tokens = sorted({chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 256)]})
    byte_tokens += [chr(256 + n) for n in range(256 - len(byte_tokens))]
    tokens, merges = list(byte_tokens), []
    words = (w for n in (2, 3, 4) for w in itertools.product(string.ascii_lowercase, repeat=n))
    for word in words:
        if len(tokens) == vocabulary - len(SPECIALS):
            break
        tokens.append("".join(word))
        merges.append(["".join(word[:-1]), word[-1]])
    pattern = next(key[0][1] for key, names in pretokenizers._KNOWN.items() if names.get(True) == "llama-bpe")
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    added = [
        {"id": len(tokens) + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for i, text in enumerate(SPECIALS)
    ]  # fmt: skip
    model = {
        "type": "BPE",
        "vocab": {t: i for i, t in enumerate(tokens)},
        "merges": merges,
        "ignore_merges": True,
    }
    return {
        "version": "1.0", "added_tokens": added, "normalizer": None, "post_processor": None, "decoder": level,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}, "model": model,
    }  # fmt: skip


def write_model(folder: Path, size: str, *, zeros: bool = False) -> None:
    """The checkpoint: config, tokenizer, weights."""
    hidden, layers, heads, kv_heads, mlp, vocabulary = SIZES[size]
    folder.mkdir(parents=True)
    made = tokenizer(vocabulary)
    ids = {token["content"]: token["id"] for token in made["added_tokens"]}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "intermediate_size": mlp, "vocab_size": vocabulary, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "hidden_act": "silu",
        "bos_token_id": ids["<|begin_of_text|>"], "eos_token_id": ids["<|eot_id|>"], "head_dim": hidden // heads,
    }  # fmt: skip
    words = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "chat_template": CHAT}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(made))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**words, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    shapes = weight_shapes(size)
    data = None if zeros else random_bf16(shapes, 0, 0.02)
    write_safetensors(folder / "model.safetensors", shapes, "BF16", data)


def write_adapter(folder: Path, size: str, rank: int = 16, *, zeros: bool = False) -> None:
    """A PEFT LoRA on all linear layers."""
    folder.mkdir(parents=True)
    shapes: dict[str, tuple[int, ...]] = {}
    for module, (rows, columns) in linear_shapes(size).items():
        shapes[f"base_model.model.{module}.lora_A.weight"] = (rank, columns)
        shapes[f"base_model.model.{module}.lora_B.weight"] = (rows, rank)
    kinds = sorted({module.rsplit(".", 1)[1] for module in linear_shapes(size)})
    config = {
        "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": kinds, "lora_dropout": 0.0,
        "bias": "none", "task_type": "CAUSAL_LM", "base_model_name_or_path": f"random-{size}",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    data = None if zeros else random_bf16(shapes, 1, 0.02)
    write_safetensors(folder / "adapter_model.safetensors", shapes, "BF16", data)


if __name__ == "__main__":
    size, target = sys.argv[1], Path(sys.argv[2])
    write_model(target / "base", size, zeros="--zeros" in sys.argv)
    write_adapter(target / "adapter", size, zeros="--zeros" in sys.argv)
