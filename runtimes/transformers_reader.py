"""A merged model in transformers, in float32, to hold llama.cpp's against: reads chunks and gives logits, no more.

An extra: it needs torch and transformers. No code of a checkpoint is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import HardwareError, RuntimeUnavailableError, UnsupportedModelError
from edgekit.runtimes.engine import Logits, Run
from edgekit.tensors import Float32


class TransformersReader:
    """One sequence at a time; the part of an engine that reading chunks takes."""

    def __init__(
        self, config: Mapping[str, Any], weights: Iterable[tuple[str, Float32]], place: Path, threads: int = 0
    ) -> None:
        """Build the model of ``config`` and fill in ``weights`` by name; ``place`` is what errors name.

        Raises ``RuntimeUnavailableError`` without the extra, ``UnsupportedModelError`` for a model that transformers doesn't
        know without its own code, or whose parameters aren't those of the checkpoint, and ``HardwareError`` without memory.
        """
        self._torch, model_of = _libraries()
        if threads:
            self._torch.set_num_threads(threads)
        self._model = _loaded(self._torch, model_of, dict(config), weights, place)
        self.n_vocab: int = self._model.get_output_embeddings().weight.shape[0]
        self._cache: Any = None

    def clear(self) -> None:
        """Forget what was read."""
        self._cache = None

    def decode(self, runs: Sequence[Run]) -> Logits:
        """Read a run after what was read before; its wanted logits ``(wanted, n_vocab)``."""
        (run,) = runs
        with self._torch.inference_mode():
            ids = self._torch.tensor([list(run.tokens)])
            # Of the wanted positions only: all of a chunk's logits could be gigabytes.
            wanted = self._torch.tensor(list(run.want), dtype=self._torch.long)
            found = self._model(
                input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=wanted
            )
        self._cache = found.past_key_values
        logits: Logits = found.logits[0].float().numpy()
        return logits

    def close(self) -> None:
        """Free the model."""
        self._model = self._cache = None


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise RuntimeUnavailableError(
            "transformers isn't installed, so it can't be the reference",
            found=str(error),
            next_step="pip install 'edgekit[transformers]', or leave out --reference-runtime",
        ) from error
    return torch, AutoModelForCausalLM


def _loaded(
    torch: Any, model_of: Any, config: dict[str, Any], weights: Iterable[tuple[str, Float32]], place: Path
) -> Any:
    from transformers import AutoConfig

    kind = str(config.pop("model_type", ""))
    for key in ("auto_map", "quantization_config", "torch_dtype", "dtype"):
        config.pop(key, None)
    try:
        known = AutoConfig.for_model(kind, **config)
        state = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in weights}
        # The class itself: the automatic one would look for files.
        found, said = model_of._model_mapping[type(known)].from_pretrained(
            None, config=known, state_dict=state, dtype=torch.float32, output_loading_info=True
        )
    except MemoryError as error:
        raise HardwareError("no memory for the model in float32", path=place) from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UnsupportedModelError(
            "transformers can't make this model", path=place, found=str(error).splitlines()[0][:300]
        ) from error
    if wrong := [*said["missing_keys"], *said["unexpected_keys"], *said.get("mismatched_keys", ())]:
        raise UnsupportedModelError(
            "the checkpoint's tensors aren't those that transformers has for it",
            path=place,
            found=", ".join(map(str, sorted(map(str, wrong))[:5])),
        )
    return found.eval()
