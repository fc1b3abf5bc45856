"""ONNX graphs that come from elsewhere: what is listed, and everything that a broken or hostile one is refused for."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import BundleError
from edgekit.onnx_header import OnnxTensor, places, read_tensors

FLOAT, INT4, STRING = 1, 22, 8


def number(value: int) -> bytes:
    """A varint."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(at: int, value: int | bytes | str) -> bytes:
    """A protobuf field."""
    if isinstance(value, int):
        return number(at << 3) + number(value)
    data = value.encode() if isinstance(value, str) else value
    return number(at << 3 | 2) + number(len(data)) + data


def inline(name: str, shape: tuple[int, ...], data: bytes, kind: int = FLOAT) -> bytes:
    """A tensor whose data is in the graph."""
    return b"".join(field(1, one) for one in shape) + field(2, kind) + field(8, name) + field(9, data)


def outside(name: str, shape: tuple[int, ...], kind: int = FLOAT, **says: str) -> bytes:
    """A tensor whose data is said to be elsewhere."""
    pairs = b"".join(field(13, field(1, key) + field(2, value)) for key, value in says.items())
    return b"".join(field(1, one) for one in shape) + field(2, kind) + field(8, name) + pairs + field(14, 1)


def model(*tensors: bytes) -> bytes:
    """A model whose graph has these tensors."""
    return field(1, 10) + field(7, b"".join(field(5, one) for one in tensors))


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    (tmp_path / "weights.data").write_bytes(bytes(1024))
    return tmp_path / "model.onnx"


SOUND = outside("w", (4, 8), location="weights.data", offset="64", length="128")


def test_tensors_are_listed(graph: Path) -> None:
    graph.write_bytes(model(SOUND, inline("b", (2,), bytes(8)), inline("q", (3,), bytes(2), INT4)))
    found = read_tensors(graph)
    assert found == [
        OnnxTensor("w", FLOAT, (4, 8), 128, "weights.data", 64),
        OnnxTensor("b", FLOAT, (2,), 8),
        OnnxTensor("q", INT4, (3,), 2),
    ]
    assert places(found) == ["weights.data"]


def test_tensors_of_graphs_within_nodes_are_listed(graph: Path) -> None:
    branch = field(5, field(6, field(5, SOUND)))  # an attribute of a node that is a graph
    constant = field(5, field(5, inline("c", (1,), bytes(4))))
    graph.write_bytes(field(7, field(1, branch) + field(1, constant)))
    assert [one.name for one in read_tensors(graph)] == ["w", "c"]


@pytest.mark.parametrize(
    "place", ["../weights.data", "/etc/passwd", "sub/weights.data", "..", "", "C:\\x", ".hidden", "gone.data"]
)
def test_weights_come_only_from_beside_the_graph(graph: Path, place: str) -> None:
    graph.write_bytes(model(outside("w", (1,), location=place)))
    with pytest.raises(BundleError, match="not a sound ONNX graph"):
        read_tensors(graph)


@pytest.mark.parametrize(
    "tensor",
    [
        outside("w", (1024,), location="weights.data"),
        outside("w", (4, 8), location="weights.data", offset="1000"),
        outside("w", (4, 8), location="weights.data", length="12"),
        outside("w", (4, 8), location="weights.data", offset="-5"),
        outside("w", (4, 8), location="weights.data", offset="9" * 30),
        outside("w", (1 << 41,), location="weights.data"),
        outside("w", (1 << 39, 1 << 39), location="weights.data"),
        outside("w", (4, 8), kind=99, location="weights.data"),
        outside("w", (4, 8), kind=STRING, location="weights.data"),
        outside("w", (4, 8)),
        inline("w", (1 << 30,), b""),
        inline("w", (3,), bytes(8)),
        b"".join(field(1, one) for one in (1 << 20, 1 << 19)) + field(2, FLOAT),
    ],
)
def test_tensors_that_are_not_what_they_say_are_refused(graph: Path, tensor: bytes) -> None:
    graph.write_bytes(model(tensor))
    with pytest.raises(BundleError, match="not a sound ONNX graph"):
        read_tensors(graph)


def test_a_graph_cut_off_anywhere_is_refused_or_lists_no_more(graph: Path) -> None:
    whole = model(SOUND, inline("b", (2,), bytes(8)))
    graph.write_bytes(whole)
    sound = read_tensors(graph)
    for end in range(len(whole)):
        graph.write_bytes(whole[:end])
        with pytest.raises(BundleError):
            assert read_tensors(graph) == sound


def test_graphs_nested_without_end_are_refused(graph: Path) -> None:
    inner = field(5, SOUND)
    for _ in range(100):
        inner = field(1, field(5, field(6, inner)))
    graph.write_bytes(field(7, inner))
    with pytest.raises(BundleError, match="nested too deep"):
        read_tensors(graph)


def test_what_is_no_graph_is_refused(graph: Path) -> None:
    for data in (b"", b"\xff" * 200, b"GGUF" + bytes(100), b"\x80" * 100):
        graph.write_bytes(data)
        with pytest.raises(BundleError):
            read_tensors(graph)


def test_a_real_export_is_listed_as_onnx_lists_it(onnx_bundles: Path) -> None:
    onnx = pytest.importorskip("onnx")
    for name in ("restaurant-onnx-fp32", "restaurant-onnx-int4"):
        path = onnx_bundles / name / "onnx" / "model.onnx"
        theirs = onnx.load(path, load_external_data=False).graph.initializer
        ours = {one.name: one for one in read_tensors(path)}
        for tensor in theirs:
            says = {entry.key: entry.value for entry in tensor.external_data}
            one = ours[tensor.name]
            assert (one.kind, one.shape) == (tensor.data_type, tuple(tensor.dims))
            assert one.place == says.get("location", "")
            assert not says or (one.offset, one.nbytes) == (int(says["offset"]), int(says["length"]))
