"""Mixtures of experts: both layouts of checkpoints, memory, types, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import chunks, families, plan, presets, stream
from edgekit.errors import EdgekitError, InputError, UnsupportedModelError
from edgekit.tensors import ALL, Float32, TensorInfo, span, turned
from tests.converters.quantizer import quantize
from tests.models import save, write_sidecars

SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 384, "max_position_embeddings": 256, "num_experts_per_tok": 2,
    "bos_token_id": 379, "eos_token_id": 380,
}  # fmt: skip
MIXTRAL = SIZES | {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 4}
QWEN3 = SIZES | {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 4,
    "moe_intermediate_size": 32, "norm_topk_prob": True,
}  # fmt: skip
QWEN2 = SIZES | {
    "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "num_experts": 4,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48,
}  # fmt: skip


def weights(config: dict[str, Any], fused: bool = False) -> dict[str, Float32]:
    """Random tensors of one of the three families, with a tensor for each expert or all in one."""
    hidden, vocab, kind = config["hidden_size"], config["vocab_size"], config["model_type"]
    ffn = config.get("moe_intermediate_size", config["intermediate_size"])
    experts = config.get("num_experts") or config["num_local_experts"]
    size = hidden // config["num_attention_heads"]
    shared = size * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
    }
    shapes["lm_head.weight"] = (vocab, hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        block = f"{prefix}{'block_sparse_moe' if kind == 'mixtral' and not fused else 'mlp'}."
        shapes |= {
            f"{prefix}{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")
        }
        for name, rows in (("q", hidden), ("k", shared), ("v", shared), ("o", hidden)):
            shapes[f"{prefix}self_attn.{name}_proj.weight"] = (rows, hidden)
            if kind == "qwen2_moe" and name != "o":
                shapes[f"{prefix}self_attn.{name}_proj.bias"] = (rows,)
        if kind == "qwen3_moe":
            shapes |= {f"{prefix}self_attn.{name}_norm.weight": (size,) for name in "qk"}
        if kind == "qwen2_moe":
            both = config["shared_expert_intermediate_size"]
            shapes[f"{block}shared_expert_gate.weight"] = (1, hidden)
            shapes |= {f"{block}shared_expert.{name}_proj.weight": (both, hidden) for name in ("gate", "up")}
            shapes[f"{block}shared_expert.down_proj.weight"] = (hidden, both)
        shapes[f"{block}gate.weight"] = (experts, hidden)
        gate, up, down = ("w1", "w3", "w2") if kind == "mixtral" else ("gate_proj", "up_proj", "down_proj")
        for i in range(experts):
            shapes |= {f"{block}experts.{i}.{name}.weight": (ffn, hidden) for name in (gate, up)}
            shapes[f"{block}experts.{i}.{down}.weight"] = (hidden, ffn)
    rng = np.random.default_rng(0)
    out = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return fuse(out, gate, up, down) if fused else out


def fuse(arrays: dict[str, Float32], gate: str, up: str, down: str) -> dict[str, Float32]:
    """transformers 5's layout: gate above up, experts stacked."""
    out = {name: array for name, array in arrays.items() if ".experts." not in name}
    for name in [name for name in arrays if f".experts.0.{gate}." in name]:
        prefix = name.rsplit(".0.", 1)[0]
        count = sum(n.startswith(f"{prefix}.") and n.endswith(f".{gate}.weight") for n in arrays)
        pairs = [
            np.concatenate([arrays[f"{prefix}.{i}.{part}.weight"] for part in (gate, up)])
            for i in range(count)
        ]
        out[f"{prefix}.gate_up_proj"] = np.stack(pairs)
        out[f"{prefix}.down_proj"] = np.stack([arrays[f"{prefix}.{i}.{down}.weight"] for i in range(count)])
    return out


def write(folder: Path, config: dict[str, Any], fused: bool = False) -> Path:
    write_sidecars(folder, config)
    save(folder / "model.safetensors", weights(config, fused))
    return folder


def convert(folder: Path, target: Path, preset: str = "F32") -> Path:
    layout = plan.lay_out(Checkpoint(folder), folder, "test")
    stream.write([plan.plan(layout, presets.preset(preset))], [target], 2)
    return target


class Counting:
    """A checkpoint that notes the size of every read."""

    def __init__(self, folder: Path) -> None:
        self.base = Checkpoint(folder)
        self.config = self.base.config
        self.largest: dict[str, int] = {}

    def names(self) -> Sequence[str]:
        return self.base.names()

    def info(self, name: str) -> TensorInfo:
        return self.base.info(name)

    def read(self, name: str, rows: slice = ALL, out: Float32 | None = None) -> Float32:
        start, stop = span(rows, self.info(name).rows)
        self.largest[name] = max(self.largest.get(name, 0), (stop - start) * self.info(name).shape[-1])
        return self.base.read(name, rows, out)

    def read_columns(self, name: str, columns: slice = ALL, out: Float32 | None = None) -> Float32:
        return turned(self, name, columns, out)

    def prefetch(self, name: str, rows: slice = ALL) -> None:
        self.base.prefetch(name, rows)


@pytest.mark.parametrize("config", [MIXTRAL, QWEN3, QWEN2], ids=lambda config: config["model_type"])
def test_fused_stacks_give_the_same_file(tmp_path: Path, config: dict[str, Any]) -> None:
    one = convert(write(tmp_path / "one", config), tmp_path / "one.gguf")
    fused = convert(write(tmp_path / "fused", config, fused=True), tmp_path / "fused.gguf")
    assert one.read_bytes() == fused.read_bytes()
    gate = next(t for t in gguf.GGUFReader(one).tensors if t.name == "blk.1.ffn_up_exps.weight")
    arrays = weights(config)
    name = next(
        n
        for n in arrays
        if n.startswith("model.layers.1.") and n.endswith(("experts.2.w3.weight", "experts.2.up_proj.weight"))
    )
    assert np.array_equal(gate.data[2], arrays[name])


@pytest.mark.parametrize("fused", [False, True])
def test_what_is_read_at_once_is_a_chunk_of_one_expert(
    tmp_path: Path, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 1024)
    folder = write(tmp_path / "m", MIXTRAL, fused)
    source = Counting(folder)
    chosen = plan.plan(plan.lay_out(source, folder, "test"), presets.preset("Q4_0"))
    stream.write([chosen], [tmp_path / "m.gguf"], 1)
    reads = {name: size for name, size in source.largest.items() if ".experts." in name}
    assert len(reads) == (2 * 2 if fused else 2 * 4 * 3)
    assert max(reads.values()) <= 1024 < 64 * 96


def test_the_size_label_counts_one_expert_as_ggufs_does(tmp_path: Path) -> None:
    file = gguf.GGUFReader(convert(write(tmp_path / "m", QWEN2), tmp_path / "m.gguf"))
    experts = [t for t in file.tensors if "_exps." in t.name]
    shared = sum(int(t.n_elements) for t in file.tensors if "_exps." not in t.name)
    label = gguf.size_label(0, shared, sum(int(t.n_elements) // 4 for t in experts), 4)
    assert file.fields["general.size_label"].contents() == label
    assert label.startswith("4x")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rows of 256, layers for every rule, and as many experts as have rules of their own."""
    wide = {
        "hidden_size": 256,
        "intermediate_size": 256,
        "moe_intermediate_size": 256,
        "num_hidden_layers": 5,
    }
    folder = tmp_path_factory.mktemp("experts")
    return {
        "eight": write(folder / "eight", MIXTRAL | wide | {"num_local_experts": 8}),
        "three": write(folder / "three", QWEN2 | wide | {"num_experts": 3, "num_key_value_heads": 1}),
    }


@pytest.mark.parametrize("model", ["eight", "three"])
@pytest.mark.parametrize("preset", ["F16", "Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M"])
def test_types_and_bytes_are_those_of_llama_cpp(
    large: dict[str, Path], tmp_path: Path, model: str, preset: str
) -> None:
    source = convert(large[model], tmp_path / "f32.gguf")
    quantize(source, tmp_path / "theirs.gguf", int(presets.PRESETS[preset].file_type))
    convert(large[model], tmp_path / "ours.gguf", preset)
    # Only bytes: of the shared expert's gate, one row, the quantizer drops an axis that the converter writes.
    ours, theirs = (
        {t.name: (t.tensor_type.name, t.data.tobytes()) for t in gguf.GGUFReader(tmp_path / name).tensors}
        for name in ("ours.gguf", "theirs.gguf")
    )
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if ours[name] != theirs[name]]
    assert ours["blk.0.ffn_gate_inp.weight"][0] == "F32"


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (MIXTRAL, {"num_local_experts": 1, "num_experts_per_tok": 1}, "number of experts"),
        (MIXTRAL, {"num_experts_per_tok": 5}, "number of experts"),
        (MIXTRAL, {"num_experts": 5}, "counts the experts twice"),
        (MIXTRAL, {"num_local_experts": "4"}, "num_local_experts is unsound"),
        (MIXTRAL, {"hidden_act": "gelu"}, "another activation"),
        (MIXTRAL, {"sliding_window": "64"}, "sliding_window is unsound"),
        (MIXTRAL, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope scaling"),
        (QWEN3, {"norm_topk_prob": False}, "weights of sum 1"),
        (QWEN3, {"norm_topk_prob": None}, "weights of sum 1"),
        (QWEN3, {"decoder_sparse_step": 2}, "experts in some layers only"),
        (QWEN3, {"mlp_only_layers": [0]}, "layers without experts"),
        (QWEN3, {"attention_bias": True}, "biases"),
        (QWEN3, {"use_sliding_window": True}, "sliding window"),
        (QWEN3, {"num_experts": None}, "num_local_experts is unsound"),
        (QWEN3, {"rope_scaling": {"rope_type": "llama3"}}, "rope scaling"),
        (QWEN2, {"norm_topk_prob": True}, "doesn't scale"),
        (QWEN2, {"tie_word_embeddings": True}, "output head"),
        (QWEN2, {"head_dim": 32}, "head size apart"),
        (QWEN2, {"layer_types": ["full_attention", "sliding_attention"]}, "another kind"),
    ],
)
def test_configs_that_would_convert_wrong_are_refused(
    config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    families.find(config, Path("config.json"))
    with pytest.raises(EdgekitError, match=message):
        families.find(config | changes, Path("config.json"))


def test_a_sliding_window_ends_the_context() -> None:
    config = MIXTRAL | {"sliding_window": 128}
    found = {entry.key: entry.value for entry in families.find(config, Path()).metadata(config)}
    assert found["llama.context_length"] == 128


@pytest.mark.parametrize("fused", [False, True])
def test_experts_of_another_number_or_size_are_refused(tmp_path: Path, fused: bool) -> None:
    folder = write(tmp_path / "m", MIXTRAL, fused)
    write_sidecars(folder, MIXTRAL | {"num_local_experts": 5})
    with pytest.raises(InputError, match="experts"):
        plan.lay_out(Checkpoint(folder), folder, "test")
    write_sidecars(folder, MIXTRAL | {"intermediate_size": 64})
    with pytest.raises(InputError, match="experts"):
        plan.lay_out(Checkpoint(folder), folder, "test")


def test_an_expert_too_many_is_refused(tmp_path: Path) -> None:
    arrays = weights(QWEN3)
    arrays["model.layers.0.mlp.experts.4.up_proj.weight"] = arrays[
        "model.layers.0.mlp.experts.3.up_proj.weight"
    ]
    write_sidecars(tmp_path, QWEN3)
    save(tmp_path / "model.safetensors", arrays)
    with pytest.raises(UnsupportedModelError, match="no place"):
        plan.lay_out(Checkpoint(tmp_path), tmp_path, "test")


def test_a_missing_bias_is_an_error(tmp_path: Path) -> None:
    arrays = weights(QWEN2)
    del arrays["model.layers.1.self_attn.k_proj.bias"]
    write_sidecars(tmp_path, QWEN2)
    save(tmp_path / "model.safetensors", arrays)
    with pytest.raises(InputError, match="k_proj.bias"):
        plan.lay_out(Checkpoint(tmp_path), tmp_path, "test")
