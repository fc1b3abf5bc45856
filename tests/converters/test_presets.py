"""The oracle is llama_model_quantize, run on our own F32 file: the same types, the same bytes, the same keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest

from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import chunks, imatrix, plan, presets, stream
from edgekit.converters.gguf.presets import Model
from edgekit.errors import InputError
from tests.converters.quantizer import Matrix, assert_same_tensors, layout, quantize, random_matrix
from tests.models import write_llama

SQUARE: tuple[int, ...] = (4, 256)
Shapes = dict[str, tuple[int, ...]]


def layers(count: int, *parts: str, **shapes: tuple[int, ...]) -> Shapes:
    """The same weights in every layer, with an embedding."""
    out: Shapes = {"token_embd.weight": SQUARE}
    out["output_norm.weight"] = (256,)
    for i in range(count):
        out |= {f"blk.{i}.{part}.weight": SQUARE for part in parts}
        out |= {f"blk.{i}.{part}.weight": shape for part, shape in shapes.items()}
    return out


DENSE = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
ATTENTION = DENSE[:4]
EXPERTS: dict[str, tuple[int, ...]] = {f"ffn_{part}_exps": (8, 2, 256) for part in ("gate", "up", "down")}
HEAD: Shapes = {"output.weight": SQUARE}
ODD: Shapes = {}
ODD |= {f"blk.0.{part}.weight": (4, 64) for part in DENSE} | {
    f"blk.1.{part}.weight": (4, 172) for part in DENSE
}

MODELS: dict[str, tuple[Model, Shapes]] = {
    "grouped": (Model(17, 8, 2), layers(17, *DENSE) | HEAD),
    "small": (Model(2, 8, 2), layers(2, *DENSE) | HEAD),
    "tied": (Model(9, 4, 4), layers(9, *DENSE)),
    "llama-70b": (Model(80, 8, 1), layers(80, *DENSE) | HEAD),
    "qwen2-72b": (Model(80, 4, 4, arch="qwen2"), layers(80, *DENSE) | HEAD),
    "falcon": (Model(33, 4, 1, arch="falcon"), layers(33, "attn_qkv", "attn_output", "ffn_up", "ffn_down") | HEAD),
    "mixtral": (Model(9, 8, 2, 8), layers(9, *ATTENTION, "ffn_gate_inp", **EXPERTS) | HEAD),
    "experts-4": (Model(9, 4, 4, 4), layers(9, *ATTENTION, "ffn_down_shexp", **EXPERTS)),
    "hybrid": (
        Model(16, 8, 8),
        {
            name: shape
            for name, shape in layers(16, *DENSE, "shortconv.conv", "attn_kv_b").items()
            if "attn_v" not in name or ".3." in name or ".11." in name
        }
        | {"per_layer_token_embd.weight": SQUARE, "position_embd.weight": SQUARE, "blk.0.altup_x.weight": SQUARE},
    ),
    # 64 doesn't divide by 256, 172 not even by 32: each fall-back, down to F16.
    "odd-rows": (Model(2, 4, 4), {"token_embd.weight": (4, 64)} | ODD | {"output.weight": (4, 64)}),
}  # fmt: skip
NO_FALLBACK = ("odd-rows", "Q1_0")
"""llama.cpp has none for blocks of 128; neither have we."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[plan.Layout, Path, Matrix]]:
    folder, out = tmp_path_factory.mktemp("models"), {}
    for name, (model, shapes) in MODELS.items():
        laid = layout(model, shapes)
        path = folder / f"{name}.gguf"
        stream.write([plan.plan(laid, presets.preset("F32"))], [path], 2)
        out[name] = (laid, path, random_matrix(shapes))
    return out


def held(values: Matrix | None) -> imatrix.ImportanceMatrix | None:
    return None if values is None else imatrix.ImportanceMatrix(Path("m.gguf"), values, None, 0)


@pytest.mark.parametrize("model", MODELS)
def test_types_are_those_of_llama_cpp(
    models: dict[str, tuple[plan.Layout, Path, Matrix]], tmp_path: Path, model: str
) -> None:
    laid, source, values = models[model]
    for name, preset in presets.PRESETS.items():
        if (model, name) == NO_FALLBACK:
            continue
        for matrix in (None, values):
            shapes = {t.name: t.shape for t in laid.tensors}
            kinds = presets.assign(shapes, preset, laid.model, matrix=matrix is not None)
            theirs = quantize(source, tmp_path / "x", int(preset.file_type), matrix=matrix, dry_run=True)
            assert theirs is not None
            found = {tensor: kind.name for tensor, kind in kinds.items()}
            # A dry run names only the types that change.
            assert theirs == {tensor: found[tensor] for tensor in theirs} and len(theirs) == len(found), (
                name, matrix is not None,
            )  # fmt: skip


@pytest.mark.parametrize("model", ["small", "mixtral", "odd-rows"])
def test_bytes_are_those_of_llama_cpp(
    models: dict[str, tuple[plan.Layout, Path, Matrix]],
    tmp_path: Path,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 3 * 256)  # chunks that cross from expert to expert
    laid, source, values = models[model]
    refused = set()
    for name, preset in presets.PRESETS.items():
        if (model, name) == NO_FALLBACK:
            continue
        for matrix in (None, values):
            ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
            done = quantize(source, theirs, int(preset.file_type), matrix=matrix)
            if done is None:
                refused.add(name)
                with pytest.raises(InputError, match=r"can't do without an importance matrix"):
                    plan.plan(laid, preset, matrix=held(matrix))
                continue
            stream.write([plan.plan(laid, preset, matrix=held(matrix))], [ours], 2)
            assert_same_tensors(ours, theirs)
    low = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S"}
    assert refused == (set() if model == "odd-rows" else low)


@pytest.mark.parametrize("tied", [False, True])
def test_a_whole_model_has_the_keys_and_bytes_of_llama_cpps(tmp_path: Path, tied: bool) -> None:
    changes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4}
    folder = write_llama(tmp_path / "m", tie_word_embeddings=tied, vocab_size=300, **changes)
    laid = plan.lay_out(Checkpoint(folder), folder, "test")
    values = random_matrix({t.name: t.shape for t in laid.tensors})
    source = tmp_path / "f32.gguf"
    stream.write([plan.plan(laid, presets.preset("F32"))], [source], 2)
    for name in ("BF16", "Q8_0", "Q4_K_M", "IQ4_XS", "IQ3_XXS", "IQ1_M", "TQ2_0", "MXFP4_MOE"):
        preset = presets.preset(name)
        ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
        stream.write([plan.plan(laid, preset, matrix=held(values))], [ours], 2)
        assert quantize(source, theirs, int(preset.file_type), matrix=values) is not None
        assert_same_tensors(ours, theirs)
        keys = {key: field.contents() for key, field in gguf.GGUFReader(ours).fields.items()}
        assert keys.pop("quantize.imatrix.file") == "m.gguf"
        assert keys.pop("quantize.imatrix.entries_count") == 14
        keys["GGUF.kv_count"] -= 2
        assert keys == {key: field.contents() for key, field in gguf.GGUFReader(theirs).fields.items()}


def test_overrides_are_those_of_llama_cpp(
    models: dict[str, tuple[plan.Layout, Path, Matrix]], tmp_path: Path
) -> None:
    laid, source, _ = models["grouped"]
    pattern = r"blk\.[0-4]\.(ffn_down|attn_v)"
    override = presets.Override.parse(f"{pattern}=mxfp4")
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    stream.write([plan.plan(laid, presets.preset("Q4_K_M"), [override])], [ours], 2)
    quantize(
        source, theirs, int(presets.PRESETS["Q4_K_M"].file_type),
        (pattern, int(gguf.GGMLQuantizationType.MXFP4)),
    )  # fmt: skip
    assert_same_tensors(ours, theirs)
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(ours).tensors}
    assert kinds["blk.0.ffn_down.weight"] == "MXFP4"


@pytest.mark.parametrize("kind", ["iq2_xxs", "iq2_xs", "iq1_s"])
def test_an_embedding_that_the_quantizer_would_abort_on_is_refused(kind: str) -> None:
    laid = layout(*MODELS["tied"])
    with pytest.raises(InputError, match="token_embd"):
        plan.plan(laid, presets.preset("Q4_K_M"), [presets.Override.parse(f"token_embd={kind}")])


def test_rows_that_no_type_fits_are_an_error() -> None:
    laid = layout(*MODELS["odd-rows"])
    with pytest.raises(InputError, match="don't divide by the blocks of Q1_0") as caught:
        plan.plan(laid, presets.preset("Q1_0"))
    assert "--tensor-type" in str(caught.value)


def test_names_in_any_case_and_short() -> None:
    assert presets.preset("q4_k_m").name == "Q4_K_M"
    assert presets.preset("Q4_K").name == "Q4_K_M"


def test_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(InputError) as caught:
        presets.preset("Q4_K_X")
    assert "did you mean Q4_K_" in str(caught.value)


@pytest.mark.parametrize("text", ["ffn_down", "ffn_down=q9", "=q8_0", "(=q8_0"])
def test_unreadable_overrides(text: str) -> None:
    with pytest.raises(InputError, match="can't read"):
        presets.Override.parse(text)


def test_an_override_that_fits_nothing_is_an_error() -> None:
    override = presets.Override.parse("ffn_dwon=q8_0")
    with pytest.raises(InputError, match="fits no tensor"):
        presets.assign(
            {"blk.0.ffn_down.weight": (4, 256)}, presets.PRESETS["Q4_K_M"], Model(1, 4, 4), [override]
        )
