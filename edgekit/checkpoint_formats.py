"""What tells the formats apart that are made from a merged checkpoint: their converters, names and runtimes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import msgspec

from edgekit import bundle, importance_data
from edgekit.errors import InputError
from edgekit.files import read_json, sha256
from edgekit.gptq_settings import bits
from edgekit.onnx_settings import precision
from edgekit.project import BuildSpec

if TYPE_CHECKING:
    from edgekit.converters.child import Export

Report = Callable[[str, int], None]


class Form(Protocol):
    """One format, for one spec."""

    said: str
    """In a sentence."""
    option: str
    tool: str
    runtime: str
    kv_type: Literal["f16", "f32"]
    calibrated: bool
    """Made with data."""
    steps: int
    """Of its progress, beside the layers."""

    @property
    def runs_here(self) -> bool: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    def check(self) -> None: ...
    def named(self, quantization: str) -> str: ...
    def prepare(self, checkpoint: Path) -> None: ...
    def export(self, checkpoint: Path, out: Path, quantization: str, report: Report) -> Export: ...
    def first(self, folder: Path) -> Path: ...
    def calibration(self) -> bundle.Calibration | None: ...


def of(spec: BuildSpec) -> Form:
    """The format that a spec asks for."""
    return Onnx(spec) if spec.format == "onnx" else Packed(spec)


class Onnx:
    """By onnxruntime-genai's builder."""

    said, option, tool, runtime = "an ONNX model", "onnx", "onnxruntime-genai's builder", "onnxruntime"
    kv_type: Literal["f16", "f32"] = "f32"
    calibrated, steps = False, 6

    def __init__(self, spec: BuildSpec) -> None:
        self._spec = spec

    @property
    def runs_here(self) -> bool:
        """Whether probes can be recorded: other providers are built for, and not run."""
        return self._spec.onnx.provider == "cpu"

    @property
    def settings(self) -> dict[str, Any]:
        """What the manifest keeps of how it was made."""
        return dict(msgspec.to_builtins(self._spec.onnx))

    def check(self) -> None:
        """``RuntimeUnavailableError`` where a package is missing."""
        from edgekit.converters import onnx

        onnx.check()

    def named(self, quantization: str) -> str:
        """A precision as the builder knows it."""
        return precision(quantization, self._spec.onnx)

    def prepare(self, checkpoint: Path) -> None:
        """Nothing beside the checkpoint goes in."""

    def export(self, checkpoint: Path, out: Path, quantization: str, report: Report) -> Export:
        """Into a folder; see ``converters.onnx.export``."""
        from edgekit.converters import onnx

        return onnx.export(checkpoint, out, quantization, self._spec.onnx, report)

    def first(self, folder: Path) -> Path:
        """The artifact's first file, its configuration checked."""
        from edgekit.genai_config import read_config

        return folder / read_config(folder).model.decoder.filename

    def calibration(self) -> bundle.Calibration | None:
        """None: it takes no data."""
        return None


class Packed:
    """GPTQ or AWQ by gptqmodel, on the data that ``--calibration`` names."""

    option, tool, runtime = "gptq", "gptqmodel", "gptqmodel"
    kv_type: Literal["f16", "f32"] = "f16"
    calibrated, steps, runs_here = True, 0, True

    def __init__(self, spec: BuildSpec) -> None:
        self._spec = spec
        self._method: Final = spec.format
        self.said = f"{'a' if spec.format == 'gptq' else 'an'} {spec.format.upper()} model"
        self._data: importance_data.Data | None = None
        self._sequences: Sequence[Sequence[int]] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """What the manifest keeps of how it was made."""
        return dict(msgspec.to_builtins(self._spec.gptq))

    def check(self) -> None:
        """Packages and data, before any work."""
        from edgekit.converters import gptq

        gptq.check()
        spec = self._spec
        if spec.calibration is None:
            raise InputError(
                f"{spec.format.upper()} is calibrated on data, and there is none",
                expected="text or records like what the model will see",
                next_step="pass --calibration FILE",
            )
        self._data = importance_data.read(spec.calibration, spec.prompt, spec.system, spec.output_schema)

    def named(self, quantization: str) -> str:
        """INT4 and the like."""
        bits(quantization, self._method)
        return quantization.upper()

    def prepare(self, checkpoint: Path) -> None:
        """Turn the data into the tokens that the merged model reads."""
        from edgekit.runtimes.rows import RowsEngine
        from edgekit.runtimes.words import Words

        assert self._data is not None
        config, settings = read_json(checkpoint / "config.json"), self._spec.gptq
        bos = config.get("bos_token_id")
        words = Words(checkpoint, (), bos if isinstance(bos, int) else None)
        engine = RowsEngine(checkpoint, words, config["vocab_size"])
        trained = config.get("max_position_embeddings", settings.length)
        length = min(settings.length, trained)
        self._sequences = importance_data.sequences(self._data, engine, length, settings.samples)[
            : settings.samples
        ]

    def export(self, checkpoint: Path, out: Path, quantization: str, report: Report) -> Export:
        """Into a folder; see ``converters.gptq.export``."""
        from edgekit.converters import gptq

        return gptq.export(
            checkpoint, out, self._method, bits(quantization, self._method), self._spec.gptq, self._sequences, report
        )  # fmt: skip

    def first(self, folder: Path) -> Path:
        """The artifact's first file, all of it checked."""
        from edgekit.packed_folder import read_packed

        return read_packed(folder).weights[0]

    def calibration(self) -> bundle.Calibration | None:
        """The data by its file, and the tokens that were read of it."""
        path = self._spec.calibration
        assert path is not None
        file = bundle.File(path.name, path.stat().st_size, sha256(path))
        tokens = hashlib.sha256(msgspec.json.encode(self._sequences)).hexdigest()
        return bundle.Calibration(path.stem, [file], None, sum(map(len, self._sequences)), tokens)
