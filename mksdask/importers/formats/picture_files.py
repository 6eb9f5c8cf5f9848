"""PNG, JPEG, BMP, GIF and WebP files, which Pillow reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mksdask.arrays import Array
from mksdask.importers.formats.pictures import Picture, checked_number, one_channel, spacing_of_dots
from mksdask.importers.sources import Choice

# dtype of the values of each mode of Pillow, and the number of channels.
_MODES: dict[str, tuple[Any, int]] = {
    "1": (np.bool_, 1),
    "L": (np.uint8, 1),
    "P": (np.uint8, 1),
    "I;16": (np.uint16, 1),
    "I;16L": (np.uint16, 1),
    "I;16B": (np.uint16, 1),
    "I": (np.int32, 1),
    "F": (np.float32, 1),
    "LA": (np.uint8, 2),
    "RGB": (np.uint8, 3),
    "RGBA": (np.uint8, 4),
}


def _opened(path: Path) -> Image.Image:
    """Open a picture with Pillow, which refuses pictures of many pixels."""
    try:
        return Image.open(path)
    except Image.DecompressionBombError as error:
        msg = (
            f"{path} has more pixels than Pillow reads ({error}); save it as a tiled TIFF file, which is read in parts"
        )
        raise ValueError(msg) from error


@dataclass(frozen=True)
class _Frames:
    """The kernel that reads rows of a picture, or frames of an animation.

    Parameters
    ----------
    path : path
        The file.
    mode : str
        Mode of Pillow to which frames are converted.
    size : (int, int)
        Numbers of pixels along x and y.
    is_stack : bool
        Whether rows are frames.
    channel : int or None
        Number of the channel that is read.
    """

    path: Path
    mode: str
    size: tuple[int, int]
    is_stack: bool = False
    channel: int | None = None

    def __call__(self, first: int, last: int) -> Array:
        with _opened(self.path) as opened:
            if not self.is_stack:
                return self._values(opened)[first:last]
            frames = []
            for number in range(first, last):
                opened.seek(number)
                if opened.size != self.size:
                    msg = (
                        f"{self.path}: frame {number} has {opened.size} pixels, and the first one {self.size}; save "
                        "them as pictures of one size"
                    )
                    raise ValueError(msg)
                frames.append(self._values(opened))
            return np.stack(frames)

    def _values(self, opened: Image.Image) -> Array:
        image = opened if opened.mode == self.mode else opened.convert(self.mode)
        dtype, n = _MODES[self.mode]
        values = np.asarray(image).astype(dtype, copy=False)
        return one_channel(values, self.path, self.channel) if n > 1 else values


def pillow_picture(path: Path, choice: Choice) -> Picture:
    """Read the header of a picture, or of an animation, whose frames are slices.

    Parameters
    ----------
    path : path
        The file.
    choice : Choice
        The channel to read, of a picture with colours.

    Returns
    -------
    Picture
        The picture.

    Raises
    ------
    ValueError
        If the picture has colours, or is of a kind that is not known.
    """
    choice.check(path, "channel", "time")
    assumed: list[str] = []
    with _opened(path) as opened:
        kind, mode, (width, length) = str(opened.format), opened.mode, opened.size
        n_frames = int(getattr(opened, "n_frames", 1))
        if kind == "GIF" and (n_frames > 1 or _has_grey_palette(opened)):
            # Frames of a GIF have palettes of their own, so that only their colours can be compared.
            mode = "RGB"
        elif mode == "P" and n_frames == 1:
            assumed.append("the picture has a palette, of which the indices are read and not the colours")
        elif n_frames > 1 and mode != "L":
            mode = "RGBA" if mode in ("LA", "PA", "RGBA") else "RGB"
        if mode not in _MODES or kind == "MPO" or _is_deep(opened):
            what = "several pictures of different kinds" if kind == "MPO" else f"voxels of mode {opened.mode}"
            msg = f"{path} holds {what}, which are not read; convert it to grey levels of 8 or 16 bits"
            raise ValueError(msg)
        dots = opened.info.get("dpi")
        orientation = int(opened.getexif().get(274, 1))
    dtype, n = _MODES[mode]
    checked_number("channel", choice.channel, n, path)
    shape: tuple[int, ...] = (length, width)
    axes = choice.axes if choice.axes is not None and len(choice.axes) == 2 + (n_frames > 1) else "yx"
    is_stack = n_frames > 1
    if is_stack and choice.time is not None:
        frame = checked_number("time", choice.time, n_frames, path)
        kernel: Any = _Frame(
            _Frames(path, mode, (width, length), is_stack=True, channel=choice.channel), int(frame or 0)
        )
    else:
        checked_number("time", choice.time, n_frames, path)
        kernel = _Frames(path, mode, (width, length), is_stack, choice.channel)
        if is_stack:
            shape = (n_frames, *shape)
            are_samples = choice.join == "samples"
            axes = axes if len(axes) == 3 else "syx" if are_samples else "zyx"
            as_slices = f"{n_frames} frames of an animation are taken for slices, and time= takes one; say axes="
            assumed += [] if are_samples else [as_slices]
    if n > 1 and choice.channel is None:
        if n in (2, 4):
            assumed.append("the transparency is left out; say channel=")
        # Colours are refused before anything is written.
        kernel(0, 1)
    if orientation > 1:
        assumed.append(f"the file asks to be turned or mirrored (orientation {orientation}), which is not done")
    spacing, units, told = spacing_of_dots(dict(zip("xy", map(float, dots), strict=True)) if dots else {})
    is_whole = len(shape) == 2
    return Picture(path, kernel, shape, np.dtype(dtype), axes, spacing, units, (*assumed, *told), kind, is_whole)


@dataclass(frozen=True)
class _Frame:
    """The kernel that reads rows of one frame."""

    frames: _Frames
    number: int

    def __call__(self, first: int, last: int) -> Array:
        return self.frames(self.number, self.number + 1)[0, first:last]


def _has_grey_palette(opened: Image.Image) -> bool:
    """Tell whether all colours of a palette are grey levels."""
    palette = opened.getpalette() if opened.mode == "P" else None
    colours = np.asarray(palette or [], dtype=np.uint8).reshape(-1, 3)
    return opened.mode in ("RGB", "L") or (len(colours) > 0 and bool((colours == colours[:, :1]).all()))


def _is_deep(opened: Image.Image) -> bool:
    """Tell whether a picture has several channels of 16 bits, of which Pillow keeps 8."""
    return _MODES.get(opened.mode, (None, 1))[1] > 1 and any(
        "16" in str(tile[3]) for tile in getattr(opened, "tile", ())
    )
