"""An adapter on its own as a GGUF file: open, check against the base, write whole or not at all."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.atomic import atomic_file

if TYPE_CHECKING:
    from edgekit.converters.gguf.lora_file import AdapterFile


def convert_adapter(
    adapter: Path, base: Path, out: Path, *, kind: str = "F32", force: bool = False
) -> AdapterFile:
    """Write ``adapter`` as ``out`` in type ``kind`` (F32, F16, BF16); raises the errors of ``edgekit.errors``."""
    from edgekit.converters.adapter import Adapter
    from edgekit.converters.gguf import lora_file
    from edgekit.converters.text_model import open_model

    with closing(open_model(base)) as checkpoint, closing(Adapter(adapter)) as opened:
        laid_out = lora_file.lay_out(opened, checkpoint, base)
        with atomic_file(out, force=force) as temporary:
            laid_out.write(temporary, opened.folder.name, kind)
    return laid_out
