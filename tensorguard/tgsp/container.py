"""The container: magic bytes and four sections with their lengths in front."""

import os
import struct
from typing import BinaryIO

import msgspec

from tensorguard.tgsp.errors import NotAPackage, SectionTooLarge, TrailingBytes, Truncated

MAGIC = bytes.fromhex("89 54 47 53 50 0d 0a 1a")  # not text, not 7 bit, CR LF and a DOS end of file
SECTION_LIMITS_BYTES = {"MANIFEST": 1024 * 1024, "SIGS": 64 * 1024, "GRANTS": 4 * 1024 * 1024}

_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")


class Sections(msgspec.Struct, frozen=True):
    """The sections as they lie in the file; the payload by its place only."""

    manifest: bytes
    sigs: bytes
    grants: bytes
    payload_offset: int
    payload_length: int


def encode_header(manifest: bytes, sigs: bytes, grants: bytes, *, payload_length: int) -> bytes:
    """Encode all that precedes the payload.

    Raises:
        SectionTooLarge: a section is longer than the format allows.
    """
    parts = [MAGIC]
    for (name, limit), section in zip(
        SECTION_LIMITS_BYTES.items(), (manifest, sigs, grants), strict=True
    ):
        if len(section) > limit:
            raise SectionTooLarge(f"{name} has {len(section)} bytes, more than {limit}")
        parts += [_U32.pack(len(section)), section]
    return b"".join([*parts, _U64.pack(payload_length)])


def read_sections(file: BinaryIO, size: int) -> Sections:
    """Read all that precedes the payload of a file of `size` bytes; bounded by the limits.

    Raises:
        NotAPackage, SectionTooLarge, Truncated, TrailingBytes
    """
    file.seek(0, os.SEEK_SET)
    if file.read(len(MAGIC)) != MAGIC:
        raise NotAPackage("the file does not start as a package does")
    sections: list[bytes] = []
    for name, limit in SECTION_LIMITS_BYTES.items():
        (length,) = _U32.unpack(_read_exactly(file, _U32.size, size))
        if length > limit:
            raise SectionTooLarge(f"{name} claims {length} bytes, more than {limit}")
        sections.append(_read_exactly(file, length, size))
    (payload_length,) = _U64.unpack(_read_exactly(file, _U64.size, size))
    offset = file.tell()
    if offset + payload_length > size:
        raise Truncated(f"the payload claims {payload_length} bytes, {size - offset} are there")
    if offset + payload_length < size:
        raise TrailingBytes(f"{size - offset - payload_length} bytes follow the payload")
    manifest, sigs, grants = sections
    return Sections(manifest, sigs, grants, offset, payload_length)


def _read_exactly(file: BinaryIO, length: int, size: int) -> bytes:
    if file.tell() + length > size:
        raise Truncated("the file ends before its sections do")
    data = b""
    while len(data) < length:  # a raw file may give less than it is asked for
        more = file.read(length - len(data))
        if not more:
            raise Truncated("the file ends before its sections do")
        data += more
    return data
