"""What the tests of the core share."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.project import BuildSpec
from tests.models import attention_modules, llama_config, lora_arrays, write_adapter, write_llama


@pytest.fixture
def spec(tmp_path: Path) -> BuildSpec:
    base = write_llama(tmp_path / "base")
    adapter = write_adapter(tmp_path / "lora", lora_arrays(llama_config(), attention_modules(2)))
    return BuildSpec(base, tmp_path / "out", "tiny", ((adapter, 1.0),), ("Q8_0", "Q4_0"), threads=2)
