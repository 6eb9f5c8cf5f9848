"""Checks the codes of LZW before they are decoded.

The decoder of imagecodecs 2026.3.6 takes the first code after a cleared table without a check. If it is none of the 256
values, the decoder reads outside its memory, which gives wrong voxels or ends the process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numba
import numpy as np

_CLEAR, _END = 256, 257
_LZW, _REVERSED = 5, 2


@numba.njit(cache=True, nogil=True)
def _is_sound(data):  # type: ignore[no-untyped-def]
    """Whether a value follows each cleared table in a strip or tile, to which two bytes were appended."""
    # In the older kind of LZW, codes begin with the lowest bit, and their width grows one code later.
    is_old = data[0] == 0 and data[1] & 1
    bit, width, n_left, follows_clear = 0, 9, 254, False
    while bit + width <= 8 * (len(data) - 2):
        byte, skipped, mask = bit >> 3, bit & 7, (1 << width) - 1
        first, second, third = np.uint32(data[byte]), np.uint32(data[byte + 1]), np.uint32(data[byte + 2])
        if is_old:
            code = (first | second << 8 | third << 16) >> skipped & mask
        else:
            code = (first << 16 | second << 8 | third) >> (24 - width - skipped) & mask
        bit += width
        if code == _END:
            return True
        if code == _CLEAR:
            width, n_left, follows_clear = 9, 254 + is_old, True
            continue
        if follows_clear and code > _END:
            return False
        follows_clear = False
        # Each code but the first one after a cleared table adds an entry, so their number alone decides the width.
        n_left -= 1
        if n_left == 0 and width < 12:
            width += 1
            n_left = 1 << (width - 1)
    return True


def check_codes(page: Any, path: Path) -> None:
    """Let a page of tifffile, and those that share its decoder, refuse what the decoder of LZW does not check.

    Raises
    ------
    ValueError
        When a damaged strip or tile is decoded. The message names the file.
    """
    shared = page.keyframe
    if shared.compression != _LZW or hasattr(shared.decode, "unchecked"):
        return
    decode = shared.decode

    def checked(data: bytes | None, *arguments: Any, **options: Any) -> Any:
        if data is not None:
            codes = imagecodecs.bitorder_decode(data) if shared.fillorder == _REVERSED else data
            if not _is_sound(np.frombuffer(bytes(codes) + bytes(2), np.uint8)):
                msg = f"{path} holds a strip or tile whose codes of LZW are damaged; get a whole copy of it"
                raise ValueError(msg)
        return decode(data, *arguments, **options)

    checked.unchecked = decode  # type: ignore[attr-defined]
    shared.decode = checked
