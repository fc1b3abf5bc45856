"""Models in several files: the same tensors, loaded by llama.cpp as one model, and checked as one bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgekit import golden, load
from edgekit.build import Built, build
from edgekit.bundle import Bundle
from edgekit.describe import describe_gguf
from edgekit.errors import BundleError, InputError
from edgekit.gguf_shards import read_shards
from edgekit.project import BuildSpec, parse_size
from tests.models import write_llama

LIMIT = 30_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, Built]:
    """The same model in one file, and in several."""
    folder = tmp_path_factory.mktemp("split")
    spec = BuildSpec(write_llama(folder / "base"), folder / "one", "tiny", quantizations=("Q8_0",))
    (one,) = build(spec)
    (several,) = build(replace(spec, out=folder / "several", split_size=LIMIT))
    return one, several


@pytest.fixture
def parts(built: tuple[Built, Built], tmp_path: Path) -> list[Path]:
    """A copy of the files, in order."""
    copies = []
    for path in sorted(built[1].folder.glob("*.gguf")):
        copies.append(tmp_path / path.name)
        copies[-1].write_bytes(path.read_bytes())
    return copies


def test_files_are_named_sized_and_keyed_as_llama_cpp_has_them(built: tuple[Built, Built]) -> None:
    paths = sorted(built[1].folder.glob("*.gguf"))
    count = len(paths)
    assert count >= 3
    assert [path.name for path in paths] == [f"model-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]
    readers = [gguf.GGUFReader(path) for path in paths]
    total = sum(len(reader.tensors) for reader in readers)
    for i, reader in enumerate(readers):
        keys = {key: (field.types[0].name, field.contents()) for key, field in reader.fields.items()}
        assert keys["split.no"] == ("UINT16", i) and keys["split.count"] == ("UINT16", count)
        assert keys["split.tensors.count"] == ("INT32", total)
        assert ("tokenizer.ggml.tokens" in keys) == ("general.architecture" in keys) == (i == 0)
        assert len(reader.tensors) == 1 or sum(tensor.n_bytes for tensor in reader.tensors) <= LIMIT


def test_tensors_and_answers_are_those_of_the_one_file(built: tuple[Built, Built]) -> None:
    one, several = built
    whole = {t.name: t for t in gguf.GGUFReader(one.folder / "model.gguf").tensors}
    found = [t for path in sorted(several.folder.glob("*.gguf")) for t in gguf.GGUFReader(path).tensors]
    assert [t.name for t in found] == list(whole)
    for tensor in found:
        assert tensor.tensor_type == whole[tensor.name].tensor_type
        assert np.array_equal(tensor.data, whole[tensor.name].data)
    assert golden.read(Bundle.open(one.folder)) == golden.read(Bundle.open(several.folder))
    for verify in (False, True):
        with load(one.folder) as left, load(several.folder, verify=verify) as right:
            assert left.generate("Hello", max_tokens=8) == right.generate("Hello", max_tokens=8)


def test_the_bundle_covers_every_file(built: tuple[Built, Built], tmp_path: Path) -> None:
    _, several = built
    listed = [file for file in several.manifest.files if file.path.endswith(".gguf")]
    assert several.size == sum(file.size for file in listed) and len(listed) >= 3
    folder = tmp_path / "copy"
    shutil.copytree(several.folder, folder)
    last = folder / listed[-1].path
    blob = bytearray(last.read_bytes())
    blob[-40] ^= 1
    last.write_bytes(blob)
    assert [p.split(":")[0] for p in Bundle.open(folder).problems()] == [listed[-1].path]
    with pytest.raises(BundleError, match="not what was built"):
        load(folder, verify=True)
    last.unlink()
    with pytest.raises(BundleError, match="missing"):
        load(folder)


def test_a_part_that_the_manifest_leaves_out(built: tuple[Built, Built], tmp_path: Path) -> None:
    """llama.cpp would find it by its name, though nothing vouches for it."""
    folder = tmp_path / "copy"
    shutil.copytree(built[1].folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    left_out = next(file for file in manifest["files"] if "00002-of" in file["path"])
    manifest["files"].remove(left_out)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="isn't in the manifest"):
        load(folder)


def test_a_description_counts_all_files(built: tuple[Built, Built], parts: list[Path]) -> None:
    whole, split = describe_gguf(built[0].folder / "model.gguf"), describe_gguf(parts[0])
    assert (split["tensors"], split["bytes_by_type"]) == (whole["tensors"], whole["bytes_by_type"])
    assert split["size"] == sum(path.stat().st_size for path in parts)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda parts: parts[1].unlink(), "00002-of-.*is missing"),
        (lambda parts: parts[1].write_bytes(parts[2].read_bytes()), "not the part.*\n.*split.no 2"),
        (lambda parts: parts[1].write_bytes(b"GGUF"), "ends too soon"),
        (lambda parts: parts[0].write_bytes(parts[1].read_bytes()), "a later part"),
        (
            lambda parts: parts[0].write_bytes(
                parts[0].read_bytes().replace(b"tensors.count", b"tensors.cound")
            ),
            "don't belong together",
        ),
    ],
)
def test_parts_that_do_not_belong_together(
    parts: list[Path], spoil: Callable[[list[Path]], object], message: str
) -> None:
    assert [path for path, _ in read_shards(parts[0])] == parts
    spoil(parts)
    with pytest.raises(InputError, match=message):
        load(parts[0])


def test_a_first_part_under_another_name(parts: list[Path]) -> None:
    moved = parts[0].rename(parts[0].with_name("model.gguf"))
    with pytest.raises(InputError, match="doesn't say which part it is"):
        load(moved)
    with pytest.raises(InputError, match="a later part"):
        load(parts[1])


def test_a_model_that_fits_stays_in_one_file(tmp_path: Path) -> None:
    spec = BuildSpec(write_llama(tmp_path / "base"), tmp_path / "out", "tiny", split_size=10**9)
    (one,) = build(spec)
    assert [path.name for path in one.folder.glob("*.gguf")] == ["model.gguf"]


def test_sizes_are_powers_of_a_thousand() -> None:
    assert [parse_size(text) for text in ("2G", "500m", "64K")] == [2 * 10**9, 500 * 10**6, 64_000]
    for text in ("2", "0G", "-1M", "2T", "1.5G", ""):
        with pytest.raises(InputError, match="split size"):
            parse_size(text)
