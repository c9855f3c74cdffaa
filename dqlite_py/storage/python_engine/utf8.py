"""UTF-8 as C has it: utf8.c."""

from __future__ import annotations

import re
from typing import Final

_SEQUENCE: Final = re.compile(
    rb"[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    rb"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}"
    rb"|\xf4[\x80-\x8f][\x80-\xbf]{2}"
)


def utf8_valid(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def utf8_copy(text: bytes, capacity: int) -> bytes:
    """`text` up to a NUL as valid UTF-8 of less than `capacity` bytes: bad bytes become '?', the end is cut."""
    text = text.partition(b"\0")[0]
    if len(text) < capacity and utf8_valid(text):
        return text
    copied = bytearray()
    at = 0
    while at < len(text):
        sequence = _SEQUENCE.match(text, at)
        taken = sequence[0] if sequence else b"?"
        if len(copied) + len(taken) >= capacity:
            break
        copied += taken
        at += len(taken)
    return bytes(copied)
