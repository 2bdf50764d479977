"""PNG files without what is of no use for pixels: text, which decoders refuse where it is large or damaged."""

from __future__ import annotations

import struct

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT = (b"tEXt", b"zTXt", b"iTXt")


def without_text(data: bytes) -> bytes:
    """The file without its text chunks (PNG specification, section 11.3.3); itself if it has none, or is no PNG."""
    if not data.startswith(SIGNATURE):
        return data
    kept, start, place = [], 0, len(SIGNATURE)
    while place + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8])
        end = place + 12 + length
        if name in TEXT:
            kept.append(data[start:place])
            start = end
        place = end
    return b"".join([*kept, data[start:]]) if kept else data
