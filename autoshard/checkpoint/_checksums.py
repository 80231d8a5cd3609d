"""Checksums of tiles and files, and content digests that depend on neither mesh nor chunks.

A content digest is the SHA-256 over the CRC-32C values of the *canonical* tiles (`canonical_tile`),
whatever tiles the file has. CRC is affine over the bits: for texts of one length,
``crc(a xor b) = crc(a) xor crc(b) xor crc(0)``. So the checksum of a tile that lies in several
processes follows from what each computes of its own part with zeros elsewhere.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import google_crc32c
import numpy as np

_POLYNOMIAL = 0x82F63B78  # CRC-32C, bits reversed


def crc32c(data: bytes | memoryview | np.ndarray[Any, Any], start: int = 0) -> int:
    """CRC-32C of bytes or of a contiguous array, going on from an earlier value."""
    if isinstance(data, bytes):
        return int(google_crc32c.extend(start, data))
    body = as_bytes(data) if isinstance(data, np.ndarray) else data
    # It takes numpy's buffers, though it does not say so, and no memoryview.
    buffer: Any = np.frombuffer(body, np.uint8)
    return int(google_crc32c.extend(start, buffer))


def as_bytes(array: np.ndarray[Any, Any]) -> memoryview:
    """The memory of a contiguous array, for types without a buffer format too."""
    return array.reshape(-1).view(np.uint8).data


@functools.lru_cache(maxsize=4096)
def zeros_crc32c(length: int) -> int:
    """CRC-32C of so many zero bytes."""
    return _apply(_shift_matrix(length), 0xFFFFFFFF) ^ 0xFFFFFFFF


def combine_masked(parts: Sequence[int], length: int) -> int:
    """CRC-32C of a tile from those of its parts, each with zeros in place of the others.

    Args:
        parts: One value per part.
        length: Bytes of the tile.
    """
    value = functools.reduce(int.__xor__, parts)
    return value if len(parts) % 2 else value ^ zeros_crc32c(length)


def content_digest(dtype: str, shape: Sequence[int], crcs: Iterable[int]) -> str:
    """The digest of an array: equal arrays have equal digests, on whatever mesh they lay."""
    text = f"{dtype}{list(shape)}".encode()
    body = np.fromiter(crcs, "<u4").tobytes()
    return hashlib.sha256(text + b"\0" + body).hexdigest()


def tree_digest(leaves: Iterable[tuple[str, str]]) -> str:
    """The digest of a tree from its leaves' paths and digests."""
    text = "".join(f"{path}\0{digest}\n" for path, digest in sorted(leaves))
    return hashlib.sha256(text.encode()).hexdigest()


@functools.lru_cache(maxsize=4096)
def _shift_matrix(length: int) -> tuple[int, ...]:
    """What appending so many zero bytes does to a CRC register, as a matrix over GF(2)."""
    result = tuple(1 << bit for bit in range(32))
    power = _zero_byte_matrix()
    while length:
        if length & 1:
            result = tuple(_apply(power, column) for column in result)
        length >>= 1
        if length:
            power = tuple(_apply(power, column) for column in power)
    return result


@functools.cache
def _zero_byte_matrix() -> tuple[int, ...]:
    columns: list[int] = []
    for bit in range(32):
        value = 1 << bit
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        columns.append(value)
    return tuple(columns)


def _apply(matrix: Sequence[int], vector: int) -> int:
    value, bit = 0, 0
    while vector:
        if vector & 1:
            value ^= matrix[bit]
        vector >>= 1
        bit += 1
    return value
