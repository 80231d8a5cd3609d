"""Where the members of a zip file lie, for formats that store arrays in one."""

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from autoshard.errors import ForeignFileError

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member of a zip file.

    Args:
        name: Its name.
        offset: Of its first stored byte.
        stored_bytes: How many there are.
        nbytes: How many there are unpacked.
        crc: CRC-32 of the unpacked bytes.
        packed: Whether it is compressed.
    """

    name: str
    offset: int
    stored_bytes: int
    nbytes: int
    crc: int
    packed: bool


def members(path: Path) -> dict[str, Member]:
    """All members by name.

    Raises:
        ForeignFileError: The file is no zip file, or a damaged one.
    """
    found: dict[str, Member] = {}
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            for info in archive.infolist():
                if info.filename in found:
                    raise ForeignFileError(path, f"has two members named {info.filename}")
                file.seek(info.header_offset)
                header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                if header[0] != b"PK\x03\x04":
                    raise ForeignFileError(path, f"has no header where {info.filename} should be")
                start = info.header_offset + _LOCAL_HEADER.size + header[9] + header[10]
                found[info.filename] = Member(
                    name=info.filename,
                    offset=start,
                    stored_bytes=info.compress_size,
                    nbytes=info.file_size,
                    crc=info.CRC,
                    packed=info.compress_type != zipfile.ZIP_STORED,
                )
    except (zipfile.BadZipFile, struct.error, OSError, UnicodeDecodeError) as error:
        raise ForeignFileError(path, f"is no whole zip file: {error}") from error
    return found
