"""Text from elsewhere made safe to show: a value, a name or an error cannot drive the terminal. Pure."""

from __future__ import annotations

from typing import Final

_CONTROLS: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str) -> str:
    """Control characters as what they are called."""
    if text.isprintable():
        return text
    return "".join(ch if ch.isprintable() else _CONTROLS.get(ch) or _escaped(ch) for ch in text)


def visible_text(text: str) -> str:
    """The same for text of several lines: line feeds and tabs stay."""
    if text.isprintable():
        return text
    return "".join(ch if ch.isprintable() or ch in "\n\t" else visible(ch) for ch in text)


def _escaped(ch: str) -> str:
    code = ord(ch)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
