"""llama.cpp's converter over many checkpoints in one process: ``python peer_driver.py LLAMA_CPP FOLDER…``.

Beside each folder it leaves ``FOLDER.gguf`` in F32 without a vocabulary, or ``FOLDER.refused`` with why the
converter didn't take it.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path


def main(source: str, *folders: str) -> None:
    sys.path[:0] = [source, str(Path(source) / "gguf-py")]
    gguf, torch = importlib.import_module("gguf"), importlib.import_module("torch")
    peer = importlib.import_module("conversion")
    for folder in map(Path, folders):
        target = folder.with_name(folder.name + ".gguf")
        try:
            with torch.inference_mode():
                config = peer.ModelBase.load_hparams(folder, False)
                name = peer.get_model_architecture(config, peer.ModelType.TEXT)
                kind = peer.get_model_class(name)
                kind.no_mtp = True  # transformers' tiny models have no layers that predict further tokens
                model = kind(folder, gguf.LlamaFileType.ALL_F32, target)
                # Tokenizers have oracles of their own; this one refuses all whose hash it doesn't know.
                model.set_vocab = lambda: None
                model.write()
        except Exception:  # noqa: BLE001 - whatever it raises is its answer
            target.unlink(missing_ok=True)
            folder.with_name(folder.name + ".refused").write_text(traceback.format_exc())


if __name__ == "__main__":
    main(*sys.argv[1:])
