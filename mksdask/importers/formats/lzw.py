"""Checks the codes of LZW before they are decoded.

The decoder of imagecodecs 2026.3.6 takes the first code after a cleared table without a check. If it is none of the 256
values, the decoder reads outside its memory, which gives wrong voxels or ends the process.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import imagecodecs
import numba
import numpy as np

_CLEAR, _END, _MOST_CODES = 256, 257, 5120
_LZW, _REVERSED = 5, 2


@numba.njit(cache=True, nogil=True)
def _is_sound(data, n_bytes):  # type: ignore[no-untyped-def]
    """Whether a value follows each cleared table, in the codes that make the first `n_bytes` bytes."""
    # In the older kind of LZW, codes begin with the lowest bit, and their width grows one code later.
    is_old = len(data) > 1 and data[0] == 0 and data[1] & 1
    lengths = np.ones(_MOST_CODES, dtype=np.int64)
    word, n_bits, place, width, n_codes = np.uint64(0), 0, 0, 9, 258
    last, made = _CLEAR, 0
    while made < n_bytes and n_codes < _MOST_CODES:
        while n_bits < width:
            if place == len(data):
                return True
            byte = np.uint64(data[place])
            word = word | byte << np.uint64(n_bits) if is_old else word << np.uint64(8) | byte
            place, n_bits = place + 1, n_bits + 8
        n_bits -= width
        mask = np.uint64((1 << width) - 1)
        code: Any = np.int64(word & mask if is_old else word >> np.uint64(n_bits) & mask)
        word = word >> np.uint64(width) if is_old else word
        if code == _END:
            return True
        if code == _CLEAR:
            width, n_codes = 9, 258
        elif last == _CLEAR:
            if code > _END:
                return False
            made += 1
        else:
            if code > n_codes:
                # The decoder refuses this code.
                return True
            lengths[n_codes] = lengths[last] + 1
            made += lengths[code]
            n_codes += 1
            if n_codes + (not is_old) in (512, 1024, 2048):
                width += 1
        last = code
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
    decode, n_bytes = shared.decode, math.prod(shared.chunks) * shared.dtype.itemsize

    def checked(data: bytes | None, *arguments: Any, **options: Any) -> Any:
        if data is not None:
            codes = imagecodecs.bitorder_decode(data) if shared.fillorder == _REVERSED else data
            if not _is_sound(np.frombuffer(codes, np.uint8), n_bytes):
                msg = f"{path} holds a strip or tile whose codes of LZW are damaged; get a whole copy of it"
                raise ValueError(msg)
        return decode(data, *arguments, **options)

    checked.unchecked = decode  # type: ignore[attr-defined]
    shared.decode = checked
