"""A tiny model of every family and its variants: what each is held against transformers with."""

from __future__ import annotations

from tests.converters.oracles import SIZES, Case

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32, "rope_theta": 10000.0,
}  # fmt: skip

YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0,
}  # fmt: skip
THETA = {"rope_type": "default", "rope_theta": 500000.0}
LONGROPE = {
    "rope_type": "longrope", "long_factor": [1.0 + i for i in range(8)], "short_factor": [1.0 + i / 8 for i in range(8)],
}  # fmt: skip
GEMMA3 = {
    # Seven layers: the sixth sees everything, by another rotation.
    "num_hidden_layers": 7, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 24,
    "tie_word_embeddings": True,
}  # fmt: skip

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
SMALL_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 48}
DELTA_NET = {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
QWEN35 = {**DELTA_NET, "num_hidden_layers": 4, "linear_num_key_heads": 2, "head_dim": 32}
MIXED = ["conv", "conv", "full_attention", "conv"]

CASES = {
    "llama-3.2": Case(
        "LlamaConfig", {"rope_parameters": LLAMA3, "head_dim": 32, "tie_word_embeddings": True}
    ),
    "tinyllama": Case("LlamaConfig", {"num_attention_heads": 8, "num_key_value_heads": 1}),
    # Llama's layout and its kin
    "smollm2": Case(
        "LlamaConfig",
        {"num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 48, "tie_word_embeddings": True},
    ),
    "llama-yarn": Case("LlamaConfig", {"rope_parameters": YARN}),
    "mistral-7b-v0.1": Case("MistralConfig", {"sliding_window": 64, "rms_norm_eps": 1e-5}),
    "mistral-7b-v0.3": Case("MistralConfig", {"sliding_window": None, "rope_parameters": THETA}),
    "mistral-nemo": Case("MistralConfig", {"sliding_window": None, "head_dim": 32}),
    "qwen2.5": Case("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen2.5-yarn": Case("Qwen2Config", {"rope_parameters": YARN}),
    "qwen2-linear-window": Case(
        "Qwen2Config",
        {
            "rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0},
            "use_sliding_window": True,
            "max_window_layers": 1,
            "sliding_window": 64,
        },
    ),
    "qwen3": Case("Qwen3Config", {"head_dim": 32, "tie_word_embeddings": True, "rope_parameters": THETA}),
    "qwen3-yarn": Case("Qwen3Config", {"head_dim": 8, "rope_parameters": {**YARN, "factor": 2.5}}),
    "granite-3": Case(
        "GraniteConfig",
        {
            "attention_multiplier": 0.2,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.0,
            "tie_word_embeddings": True,
            "rope_parameters": THETA,
        },
    ),
    "granite-biases-llama3": Case(
        "GraniteConfig",
        {"attention_bias": True, "mlp_bias": True, "logits_scaling": 2.0, "rope_parameters": LLAMA3},
    ),
    "olmo2": Case("Olmo2Config", {"rms_norm_eps": 1e-3, "rope_parameters": THETA}),
    "olmo2-32b": Case("Olmo2Config", {"num_key_value_heads": 1, "rope_parameters": YARN}),
    "smollm3": Case("SmolLM3Config", {"num_hidden_layers": 9, "tie_word_embeddings": True}),
    "smollm3-yarn": Case("SmolLM3Config", {"num_hidden_layers": 5, "rope_parameters": YARN}),
    # Gemma, Phi, StableLM, GPT-2
    "gemma": Case("GemmaConfig", {"head_dim": 32, "tie_word_embeddings": True}, half_gelu=True),
    "gemma-2": Case(
        "Gemma2Config",
        {
            "num_hidden_layers": 3,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 24,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 2.0,
            "tie_word_embeddings": True,
        },
        half_gelu=True,
    ),
    "gemma-3": Case("Gemma3TextConfig", GEMMA3, half_gelu=True),
    "gemma-3-4b": Case(
        "Gemma3TextConfig",
        {
            **GEMMA3,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 50000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            },
            "final_logit_softcapping": 3.0,
            "tie_word_embeddings": False,
        },
        half_gelu=True,
    ),
    "phi-3-4k": Case("Phi3Config", {"num_key_value_heads": 4, "sliding_window": 64}),
    "phi-3-128k": Case(
        "Phi3Config",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": 32, "sliding_window": 512},
    ),
    "phi-3-128k-short": Case(
        "Phi3Config",
        {
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": 256,
            "max_position_embeddings": 1024,
        },
    ),
    "phi-4-mini": Case(
        "Phi3Config",
        {
            "hidden_size": 96,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "rope_parameters": {**LONGROPE, "partial_rotary_factor": 0.667, "rope_theta": 10000.0},
            "original_max_position_embeddings": 32,
            "sliding_window": 512,
        },
    ),
    "phi-4": Case("Phi3Config", {"rope_parameters": {"rope_type": "default", "rope_theta": 250000.0}}),
    "stablelm-2-1.6b": Case("StableLmConfig", {"use_qkv_bias": True, "num_key_value_heads": 4}),
    "stablelm-2-12b": Case(
        "StableLmConfig", {"qk_layernorm": True, "use_parallel_residual": True, "partial_rotary_factor": 0.5}
    ),
    "gpt-2": Case(
        "GPT2Config",
        {
            "n_embd": 64,
            "n_head": 4,
            "n_layer": 2,
            "n_positions": 256,
            "n_ctx": 256,
            "tie_word_embeddings": True,
        },
        half_gelu=True,
    ),
}

CASES |= {
    # Mixtures of experts: PEFT puts "all-linear" on bare parameters there, which aren't merged.
    "mixtral": Case("MixtralConfig", {"num_local_experts": 8, "num_experts_per_tok": 2}, ATTENTION),
    "mixtral-scaled": Case(
        "MixtralConfig",
        {
            "num_local_experts": 3,
            "head_dim": 32,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
            "tie_word_embeddings": True,
        },
        ATTENTION,
    ),
    "qwen3-moe": Case("Qwen3MoeConfig", {**SMALL_EXPERTS, "norm_topk_prob": True, "head_dim": 32}, ATTENTION),
    "qwen3-moe-yarn": Case(
        "Qwen3MoeConfig",
        {
            **SMALL_EXPERTS,
            "norm_topk_prob": True,
            "num_experts_per_tok": 1,
            "tie_word_embeddings": True,
            "rope_parameters": YARN,
        },
        ATTENTION,
    ),
    "qwen2-moe": Case(
        "Qwen2MoeConfig",
        {**SMALL_EXPERTS, "shared_expert_intermediate_size": 80},
        [*ATTENTION, "shared_expert_gate"],
    ),
    # Hybrids of attention and layers that remember a state.
    "lfm2": Case("Lfm2Config", {"num_hidden_layers": 4, "layer_types": MIXED, "tie_word_embeddings": True}),
    "lfm2-wide": Case(
        "Lfm2Config",
        {
            "layer_types": ["full_attention", "conv"],
            "conv_L_cache": 4,
            "block_auto_adjust_ff_dim": False,
            "rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0},
        },
    ),
    "qwen3.5": Case("Qwen3_5TextConfig", {**QWEN35, "linear_num_value_heads": 6}),
    "qwen3.5-small": Case(
        "Qwen3_5TextConfig",
        {
            **DELTA_NET,
            "layer_types": ["full_attention", "linear_attention"],
            "linear_num_key_heads": 3,
            "linear_num_value_heads": 3,
            "linear_conv_kernel_dim": 3,
            "head_dim": 16,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "partial_rotary_factor": 0.5,
                "mrope_section": [2, 1, 1],
            },
        },
    ),
}

TEXT = (
    r"model\.language_model\..*\."
    r"(q_proj|o_proj|in_proj_qkv|out_proj|gate_proj|down_proj|per_layer_input_gate|per_layer_projection)"
)
CASES |= {
    # Text models as they are published: inside a multimodal one.
    "gemma-3-4b-it": Case("Gemma3TextConfig", GEMMA3, TEXT, half_gelu=True, wrapper="Gemma3Config"),
    "qwen3.5-vl": Case(
        "Qwen3_5TextConfig", {**QWEN35, "linear_num_value_heads": 4}, TEXT, wrapper="Qwen3_5Config"
    ),
    "qwen3.5-vl-tied": Case(
        "Qwen3_5TextConfig",
        {**QWEN35, "linear_num_value_heads": 2, "tie_word_embeddings": True},
        TEXT,
        wrapper="Qwen3_5Config",
    ),
}

GEMMA4 = {
    "num_hidden_layers": 6,
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 24,
    "tie_word_embeddings": True,
    "hidden_size_per_layer_input": 0,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
}
EMBEDDED = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": SIZES["vocab_size"]}
CASES |= {
    "gemma-4-e2b": Case(
        "Gemma4TextConfig",
        {
            **GEMMA4,
            **EMBEDDED,
            "num_kv_shared_layers": 3,
            "use_double_wide_mlp": True,
            "final_logit_softcapping": 3.0,
        },
        half_gelu=True,
    ),
    "gemma-4-31b": Case(
        "Gemma4TextConfig",
        {**GEMMA4, "attention_k_eq_v": True, "num_global_key_value_heads": 1},
        half_gelu=True,
    ),
    "gemma-4-26b-a4b": Case(
        "Gemma4TextConfig",
        {
            **GEMMA4,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "enable_moe_block": True,
            "num_experts": 6,
            "top_k_experts": 3,
            "moe_intermediate_size": 48,
            "final_logit_softcapping": 3.0,
        },
        r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|router\.proj)",
        half_gelu=True,
    ),
    "gemma-4-untied": Case(
        "Gemma4TextConfig",
        {
            **GEMMA4,
            **EMBEDDED,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "proportional",
                    "partial_rotary_factor": 0.5,
                    "rope_theta": 500.0,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            },
        },
        half_gelu=True,
    ),
    "gemma-4-e4b-it": Case(
        "Gemma4TextConfig",
        {**GEMMA4, **EMBEDDED, "num_kv_shared_layers": 3, "pad_token_id": 0},
        TEXT,
        half_gelu=True,
        wrapper="Gemma4Config",
    ),
}
