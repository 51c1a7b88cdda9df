"""Reads the header of a GGUF file, to refuse one that is broken before an engine loads it."""

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

from runtime.errors import ModelCorrupt

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_TENSORS = 1_000_000
_MOST_KEYS = 1_000_000
_MOST_DIMENSIONS = 8
_DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SCALAR_FORMATS = {kind: struct.Struct(f"<{letter}") for kind, letter in _SCALARS.items()}

# Weights and bytes of a block, by ggml type.
_BLOCKS = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    9: (32, 36),  # Q8_1
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    29: (256, 56),  # IQ1_M
    30: (1, 2),  # BF16
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
}

_Value = int | float | bool | str


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What a GGUF file says about itself."""

    architecture: str
    name: str
    context_tokens: int | None
    """What the model was trained for; None when the file does not say."""
    tensors: int
    size_bytes: int


def read_header(path: Path) -> GgufHeader:
    """Reads the header and checks that the file is as long as its tensors need.

    Raises:
        ModelCorrupt: it is not a GGUF file, or ends too early.
    """
    try:
        with path.open("rb") as file:
            size_bytes = path.stat().st_size
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ModelCorrupt(f"{path} is not a GGUF file.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                header, needed_bytes = _parse(data)
    except OSError as error:
        raise ModelCorrupt(f"{path} cannot be read: {error.strerror}.") from error
    except (struct.error, UnicodeDecodeError, _BadHeader) as error:
        raise ModelCorrupt(f"{path} has a broken or truncated GGUF header.") from error
    if size_bytes < needed_bytes:
        raise ModelCorrupt(f"{path} is truncated: it has {size_bytes} bytes of {needed_bytes}.")
    return header


class _BadHeader(Exception):
    """A field has a value that no GGUF file has."""


class _Cursor:
    """Reads little-endian fields one after the other."""

    def __init__(self, data: mmap.mmap, position: int) -> None:
        self._data = data
        self.position = position

    def scalar(self, kind: int) -> _Value:
        form = _SCALAR_FORMATS.get(kind)
        if form is None:
            raise _BadHeader
        value: _Value = form.unpack_from(self._data, self.position)[0]
        self.position += form.size
        return value

    def u32(self) -> int:
        return int(self.scalar(4))

    def u64(self) -> int:
        return int(self.scalar(10))

    def string(self) -> str:
        length = self.u64()
        start = self.position
        self._skip(length)
        return self._data[start : self.position].decode("utf-8", "replace")

    def value(self, kind: int) -> _Value | None:
        """Reads a value; an array is skipped."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(kind)
        item_kind, length = self.u32(), self.u64()
        if item_kind == _STRING:
            for _ in range(length):
                self._skip(self.u64())
        elif item_kind in _SCALAR_FORMATS:
            self._skip(length * _SCALAR_FORMATS[item_kind].size)
        else:
            raise _BadHeader
        return None

    def _skip(self, length: int) -> None:
        self.position += length
        if self.position > len(self._data):
            raise _BadHeader


def _parse(data: mmap.mmap) -> tuple[GgufHeader, int]:
    """Returns the header, and how many bytes the file must have."""
    cursor = _Cursor(data, len(_MAGIC))
    version, tensors, keys = cursor.u32(), cursor.u64(), cursor.u64()
    if version not in _VERSIONS or not 0 < tensors < _MOST_TENSORS or keys > _MOST_KEYS:
        raise _BadHeader
    values: dict[str, _Value | None] = {}
    for _ in range(keys):
        key = cursor.string()
        values[key] = cursor.value(cursor.u32())
    end_bytes = max(_tensor_end(cursor) for _ in range(tensors))
    alignment = values.get("general.alignment")
    if not isinstance(alignment, int) or alignment <= 0:
        alignment = _DEFAULT_ALIGNMENT
    data_start = -(-cursor.position // alignment) * alignment
    architecture = str(values.get("general.architecture") or "")
    context_tokens = values.get(f"{architecture}.context_length")
    header = GgufHeader(
        architecture=architecture,
        name=str(values.get("general.name") or ""),
        context_tokens=context_tokens if isinstance(context_tokens, int) else None,
        tensors=tensors,
        size_bytes=len(data),
    )
    return header, data_start + end_bytes


def _tensor_end(cursor: _Cursor) -> int:
    """Reads one tensor's entry; returns where its data ends, from the start of all data."""
    cursor.string()
    dimensions = cursor.u32()
    if dimensions > _MOST_DIMENSIONS:
        raise _BadHeader
    weights = prod(cursor.u64() for _ in range(dimensions))
    # A type from the future is taken for empty: the check is weaker then, not wrong.
    block_weights, block_bytes = _BLOCKS.get(cursor.u32(), (1, 0))
    return cursor.u64() + weights // block_weights * block_bytes
