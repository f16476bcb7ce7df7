"""Plain characters for typed and pasted text, the numbers in it, and excerpts of it for messages.

Input methods, phones, word processors and web pages write `，` for a comma, `–` for a minus, `８` for 8,
curly quotes for straight ones and invisible marks between letters. One table maps each to a plain character;
ui/components/camera.py passes it to the page's script, so that the browser and Python parse a text alike.
"""

from __future__ import annotations

import re

# Plain character -> the signs that it replaces.
_SIGNS = {
    ",": "、､﹐﹑،。｡",
    ";": "؛\u037e﹔",
    ":": "﹕∶",
    ".": "…٫",
    "-": "‐‑‒–—―⁃−﹘﹣ー\uff70\u02d7",
    "+": "﹢➕",
    "'": "‘’‚‛′‹›´",
    '"': "“”„‟″«»「」『』〝〞〟",
    "`": "｀",
    " ": "\t\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000",
    "\n": "\r\v\f\u0085\u2028\u2029",
    # Soft hyphens, zero-width spaces and joiners, direction marks, the byte order mark, emoji selectors.
    "": "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062"
    "\u2063\u2064\u2066\u2067\u2068\u2069\ufeff\ufe0e\ufe0f",
}
_FULL_WIDTH = range(0xFF01, 0xFF5F)  # ASCII again, shifted by 0xFEE0
# Zero in every other script of the basic plane; nine more digits follow each.
_ZEROS = "٠۰߀०০੦૦୦௦౦೦൦෦๐໐༠၀႐០᠐᥆᧐᪀᪐᭐᮰᱀᱐꘠꣐꤀꧐꧰꩐꯰"
PLAIN: dict[str, str] = {
    **{chr(code): chr(code - 0xFEE0) for code in _FULL_WIDTH},
    **{chr(ord(zero) + digit): str(digit) for zero in _ZEROS for digit in range(10)},
    **{sign: character for character, signs in _SIGNS.items() for sign in signs},
}
_TABLE = str.maketrans(PLAIN)
COLON = re.compile(f"[:{''.join(sign for sign, character in PLAIN.items() if character == ':')}]")

_MAX_NUMBER = 64  # characters
_NUMBER = re.compile(r"([+-]?[0-9]+)(?:\.([0-9]*))?")


def plain(text: str) -> str:
    """Returns `text` with every sign in `PLAIN` replaced by its plain character, or removed."""
    return text.translate(_TABLE)


def read_number(text: str) -> int | float | None:
    """Returns the number typed as `text`: an int for a whole one, also `8.0` or `08`; else None."""
    if len(text) > 2 * _MAX_NUMBER:
        return None
    typed = plain(text).strip(" \n'\"`")
    match = _NUMBER.fullmatch(typed) if len(typed) <= _MAX_NUMBER else None
    if match is None:
        return None
    return float(typed) if (match[2] or "").strip("0") else int(match[1])


def excerpt(text: object, most: int = 24) -> str:
    """Returns the beginning of `text`, at most `most` characters, in quotes for a message."""
    words = str(text)
    return repr(words if len(words) <= most else f"{words[:most]}…")
