"""Zip files with members at places that are known beforehand; checksums are filled in last."""

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

_WIDE = 0xFFFFFFFF
_STAMP = (0, 0x21)  # midnight of 1 January 1980, the first that zip knows
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A member.

    Args:
        name: Its name.
        head: What is known of its content: all of it, or what stands before an array.
        nbytes: Bytes of the array behind `head`.
    """

    name: str
    head: bytes
    nbytes: int = 0

    @property
    def size(self) -> int:
        """All its bytes."""
        return len(self.head) + self.nbytes


@dataclass(frozen=True, slots=True)
class ZipPlan:
    """Members one after another, uncompressed, with zip64 records throughout.

    Args:
        entries: The members.
    """

    entries: tuple[Entry, ...]

    def starts(self) -> list[int]:
        """Offset of each member's header, and of the directory."""
        found = [0]
        for entry in self.entries:
            found.append(found[-1] + len(_local_header(entry, 0)) + entry.size)
        return found

    def array_offsets(self) -> list[int]:
        """Where the arrays of all members begin."""
        pairs = zip(self.entries, self.starts(), strict=False)
        return [at + len(_local_header(entry, 0)) + len(entry.head) for entry, at in pairs]

    def literals(self) -> dict[int, bytes]:
        """All that is no array, with checksums of 0."""
        starts = self.starts()
        found = {
            at: _local_header(entry, 0) + entry.head
            for entry, at in zip(self.entries, starts, strict=False)
        }
        found[starts[-1]] = self._directory([0] * len(self.entries))
        return found

    def nbytes(self) -> int:
        """Size of the file."""
        return self.starts()[-1] + len(self._directory([0] * len(self.entries)))

    def finish(self, descriptor: int, write: Callable[[int, bytes], None]) -> None:
        """Computes the checksums of a file that is written but for them, and writes them."""
        starts = self.starts()
        crcs: list[int] = []
        for entry, at in zip(self.entries, starts, strict=False):
            begin, crc = at + len(_local_header(entry, 0)), 0
            for offset in range(0, entry.size, _CHUNK_BYTES):
                count = min(_CHUNK_BYTES, entry.size - offset)
                crc = zlib.crc32(os.pread(descriptor, count, begin + offset), crc)
            write(at, _local_header(entry, crc))
            crcs.append(crc)
        write(starts[-1], self._directory(crcs))

    def _directory(self, crcs: list[int]) -> bytes:
        out = bytearray()
        starts = self.starts()
        for entry, offset, crc in zip(self.entries, starts, crcs, strict=False):
            name = entry.name.encode()
            extra = struct.pack("<HHQQQ", 1, 24, entry.size, entry.size, offset)
            out += struct.pack(
                "<4s6H3I5H2I",
                *(b"PK\x01\x02", 45, 45, 0x800, 0, *_STAMP),
                *(crc, _WIDE, _WIDE, len(name), len(extra), 0, 0, 0, 0, _WIDE),
            )
            out += name + extra
        count, size, at = len(self.entries), len(out), starts[-1]
        out += struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, at)
        out += struct.pack("<4sIQI", b"PK\x06\x07", 0, at + size, 1)
        short = min(count, 0xFFFF)
        out += struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, short, short, _WIDE, _WIDE, 0)
        return bytes(out)


def _local_header(entry: Entry, crc: int) -> bytes:
    name = entry.name.encode()
    extra = struct.pack("<HHQQ", 1, 16, entry.size, entry.size)
    head = struct.pack(
        "<4s5H3I2H",
        *(b"PK\x03\x04", 45, 0x800, 0, *_STAMP),
        *(crc, _WIDE, _WIDE, len(name), len(extra)),
    )
    return head + name + extra
