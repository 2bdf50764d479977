"""Removal of PNG chunks that are not needed for pixels but can make decoders fail: text, damaged or huge metadata."""

from __future__ import annotations

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT = (b"tEXt", b"zTXt", b"iTXt")
PROFILE, METADATA = b"iCCP", (b"iCCP", b"eXIf", b"tIME", b"pHYs", b"gAMA", b"cHRM", b"sRGB")


def readable(data: bytes, most: int) -> bytes:
    """Remove text chunks (PNG specification, section 11.3.3), damaged metadata, and profiles larger than ``most`` bytes.

    Returns ``data`` itself if there are none, or it is not a PNG.
    """
    if not data.startswith(SIGNATURE):
        return data
    kept, start, place = [], 0, len(SIGNATURE)
    while place + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8])
        end = place + 12 + length
        if name in TEXT or (name in METADATA and _useless(name, data[place + 4 : end], most)):
            kept.append(data[start:place])
            start = end
        place = end
    return b"".join([*kept, data[start:]]) if kept else data


def _useless(name: bytes, chunk: bytes, most: int) -> bool:
    """Whether the CRC is wrong or the profile larger than ``most``; ``chunk`` is its name, body and CRC."""
    if zlib.crc32(chunk[:-4]) != int.from_bytes(chunk[-4:], "big"):
        return True
    if name != PROFILE:
        return False
    try:
        unpacked = zlib.decompressobj().decompress(chunk[4:-4].partition(b"\0")[2][1:], most + 1)
    except zlib.error:
        return True
    return len(unpacked) > most
