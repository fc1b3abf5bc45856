"""A bundle for the tools that people have: their layout, template, stop words, parameters, system prompt and a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from edgekit.atomic import atomic_folder, check_free
from edgekit.bundle import Bundle, model_files
from edgekit.errors import BundleError, InputError
from edgekit.files import sha256
from edgekit.progress import Progress

if TYPE_CHECKING:
    from edgekit.runtimes.engine import Engine

TOOLS: Final[dict[str, tuple[str, ...]]] = {
    "ollama": ("gguf",),
    "llama-server": ("gguf",),
    "lmstudio": ("gguf",),
    "onnxruntime-genai": ("onnx",),
    "vllm": ("gptq", "awq"),
    "transformers": ("gptq", "awq"),
}
"""Tools with the formats that they run."""
CONTEXT: Final = 4096


@dataclass(frozen=True)
class Parcel:
    """What a tool's writer is given."""

    opened: Bundle
    engine: Engine
    """Of its vocabulary only."""
    context: int
    folder: Path
    """To write to: published when all is there."""
    final: Path
    """Where it will be."""
    place: Callable[[str], None]
    """Puts the model's files into a folder below ``folder``, as links where the disk allows."""


@dataclass(frozen=True)
class Exported:
    """What was written, and how the tool is started with it."""

    tool: str
    folder: Path
    files: Sequence[str]
    commands: Sequence[str]
    notes: Sequence[str] = field(default=())


class Writer(Protocol):
    """A tool's module: ``write`` fills the folder and gives the commands that start the tool, and what to know."""

    def write(self, parcel: Parcel) -> tuple[list[str], list[str]]: ...


def export(
    bundle: Path | str,
    tool: str,
    out: Path | str,
    *,
    context: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write ``out`` for a tool, whole or not at all; ``context`` is in tokens, 4096 or what the model has if unset.

    Raises ``InputError`` for a format that the tool doesn't run, ``BundleError`` for an artifact that isn't what was
    built, ``UnsupportedModelError`` for a chat template that the tool can't be told.
    """
    from edgekit.choosing import artifact_of
    from edgekit.engines import plain

    opened, final = Bundle.open(bundle), Path(out)
    writer: Writer = _writer(tool, opened)
    check_free(final, force=force)
    trained = artifact_of(opened.artifact).shape.trained
    if context is not None and context > trained:
        raise InputError(
            "the context is longer than the model was trained with", path=opened.folder, found=context,
            expected=f"at most {trained}",
        )  # fmt: skip
    engine = plain(opened.artifact, vocab_only=True)
    try:
        _verify(opened, progress or Progress())
        with atomic_folder(final, force=force) as folder:
            parcel = Parcel(
                opened, engine, context or min(CONTEXT, trained), folder, final,
                lambda below: _place(opened, folder / below),
            )  # fmt: skip
            commands, notes = writer.write(parcel)
            files = sorted(
                path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
            )
    finally:
        engine.close()
    return Exported(tool, final, files, commands, notes)


def _writer(tool: str, opened: Bundle) -> Writer:
    if tool not in TOOLS:
        raise InputError("no such tool", found=tool, expected=", ".join(TOOLS))
    form = opened.manifest.format
    if form not in TOOLS[tool]:
        fits = [name for name, formats in TOOLS.items() if form in formats]
        raise InputError(
            f"{tool} doesn't run {form.upper()}", path=opened.folder, found=f"format {form}",
            expected=" or ".join(TOOLS[tool]),
            next_step=f"edgekit build --format {TOOLS[tool][0]}"
            + (f", or export this one --to {' or '.join(fits)}" if fits else ""),
        )  # fmt: skip
    module: Writer = import_module(f"edgekit.export.{tool.replace('-', '_')}")
    return module


def _verify(opened: Bundle, progress: Progress) -> None:
    """What was changed since it was built isn't handed on."""
    files = model_files(opened.manifest)
    progress.stage("verifying", sum(file.size for file in files))
    for file in files:
        path = opened.path_of(file)
        if sha256(path, lambda count: progress.advance("verifying", count)) != file.sha256:
            raise BundleError(
                "the artifact is not what was built", path=path, next_step="copy the bundle again"
            )


def _place(opened: Bundle, folder: Path) -> None:
    from edgekit.files import share

    root = opened.artifact.parent
    names = [opened.path_of(file).relative_to(root).as_posix() for file in model_files(opened.manifest)]
    share(root, names, folder)
