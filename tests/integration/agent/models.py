"""ONNX models made by hand, so that no test needs the onnx package."""


def _varint(value: int) -> bytes:
    out = b""
    while True:
        value, low = value >> 7, value & 0x7F
        out += bytes([low | (0x80 if value else 0)])
        if not value:
            return out


def _field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _tensor(name: str, sizes: list[int | str]) -> bytes:
    dims = b"".join(
        _field(1, _field(1, size) if isinstance(size, int) else _field(2, size)) for size in sizes
    )
    type_ = _field(1, _field(1, 1) + _field(2, dims))  # elem_type FLOAT, shape
    return _field(1, name) + _field(2, type_)


def relu_model() -> bytes:
    """y = Relu(x) for x of shape [batch, 4] (ONNX IR 8, opset 13; onnx/onnx.proto)."""
    node = _field(1, "x") + _field(2, "y") + _field(4, "Relu")
    shape: list[int | str] = ["batch", 4]
    graph = _field(1, node) + _field(2, "relu")
    graph += _field(11, _tensor("x", shape)) + _field(12, _tensor("y", shape))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 13))


def broken_model() -> bytes:
    """A graph with an operator that no runtime has."""
    return relu_model().replace(b"Relu", b"Nope")
