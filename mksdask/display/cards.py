"""Cards: the small tables and pictures by which objects appear in notebooks.

Text, lines and frames take the colour of the surrounding text, so that a card suits both light and dark pages.
"""

from __future__ import annotations

import base64
import io
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from mksdask.types import Array

# Anchors of cividis and RdBu, the colour maps that the figures use too.
SEQUENTIAL = ("00224e", "123570", "3b496c", "575d6d", "707173", "8a8678", "a59c74", "c3b369", "e1cc55", "fee838")
DIVERGING = ("053061", "2166ac", "4393c3", "92c5de", "f7f7f7", "f4a582", "d6604d", "b2182b", "67001f")
# Tol's bright scheme: distinguishable with any colour vision and in print, legible on white and on black.
COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")
# Pixels along the longer side of a picture.
PICTURE = 112
MOST_PIXELS = 256
MOST_POINTS = 400

# The declarations marked as important override the styles that notebooks give to tables.
STYLE = """
.mks-card{display:inline-block;box-sizing:border-box;max-width:100%;overflow-x:auto;
margin:.4em 0;padding:.5em .8em .6em;border-radius:.4em;color:inherit;
border:1px solid color-mix(in srgb,currentColor 25%,transparent);font:13px/1.45 system-ui,sans-serif}
.mks-card table{border-collapse:collapse;margin:.3em 0!important;color:inherit;border:0!important}
.mks-card th,.mks-card td{padding:.1em 1.1em .1em 0!important;text-align:left!important;vertical-align:top!important;
background:none!important;color:inherit!important;border:0;font-size:13px;white-space:normal!important}
.mks-card td:only-of-type{overflow-wrap:anywhere}
.mks-card .n{text-align:right!important;font-variant-numeric:tabular-nums}
.mks-card tr{background:none!important}
.mks-card thead th{border-bottom:1px solid color-mix(in srgb,currentColor 40%,transparent)}
.mks-card tbody th{font-weight:normal;opacity:.7}
.mks-card p{margin:.25em 0}
.mks-card .mks-pictures{display:flex;flex-wrap:wrap;gap:.7em;margin-top:.5em}
.mks-card figure{margin:0;text-align:center}
.mks-card figcaption{font-size:11px;opacity:.8;max-width:18em}
.mks-card img{image-rendering:pixelated;display:block;margin:auto;background:none}
.mks-card svg{display:block;margin:auto;overflow:visible}
"""


def value_text(value: Any) -> str:
    """Write a value in words: a shape as n × n × n, a float with six digits, a bool as yes or no."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {value_text(each)}" for name, each in value.items()) or "none"
    if isinstance(value, tuple):
        return " × ".join(map(value_text, value))
    if isinstance(value, list):
        return ", ".join(map(value_text, value)) or "none"
    return str(value)


def printed_unit(unit: str) -> str:
    """Write a unit as a reader expects it, such as µm for um, and µm³ for um^3."""
    name, _, power = unit.partition("^")
    over = "1/" if name.startswith("1/") else ""
    name = {"um": "µm", "angstrom": "Å"}.get(name.removeprefix("1/"), name.removeprefix("1/"))
    return over + name + {"2": "²", "3": "³"}.get(power, power)


def card(
    title: str,
    facts: Mapping[str, Any],
    pictures: Sequence[str] = (),
    *,
    notes: Sequence[str] = (),
    table: Sequence[Sequence[str]] = (),
) -> str:
    """Make the HTML of a card.

    Parameters
    ----------
    title : str
        Headline: the object that the card describes.
    facts : mapping of str to object
        Names and values, one line of the card for each.
    pictures : sequence of str
        HTML of each picture, made by `picture`, `curves`, `bars` or `points`.
    notes : sequence of str
        Sentences below the facts.
    table : sequence of rows of str
        The head of the table, then its rows. The first column holds text, the others hold numbers.
    """
    lines = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value_text(value))}</td></tr>" for name, value in facts.items()
    )
    parts = [f"<p><b>{escape(title)}</b></p>", f"<table><tbody>{lines}</tbody></table>" if facts else ""]
    parts += [f"<p>{escape(note)}</p>" for note in notes]
    if table:
        head, *rows = ("".join(_cells(row, tag)) for row, tag in zip(table, ["th"] + ["td"] * len(table), strict=False))
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    if pictures:
        parts.append(f'<div class="mks-pictures">{"".join(pictures)}</div>')
    return f'<div class="mks-card"><style>{STYLE}</style>{"".join(parts)}</div>'


def _cells(row: Sequence[str], tag: str) -> list[str]:
    number = ' class="n"'
    return [f"<{tag}{number * bool(column)}>{escape(cell)}</{tag}>" for column, cell in enumerate(row)]


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def _colours(anchors: Sequence[str], shares: Array) -> Array:
    """Interpolate the RGB colours of shares from 0 to 1."""
    known = np.array([[int(colour[i : i + 2], 16) for i in (0, 2, 4)] for colour in anchors], dtype=float)
    at = np.linspace(0.0, 1.0, len(known))
    return np.stack([np.interp(shares, at, known[:, channel]) for channel in range(3)], axis=-1).astype(np.uint8)


def centre_of(field: Any, n_spatial: int) -> Any:
    """Select the middle of a field for a picture: at most 256 voxels along each axis, and of 3D the central plane."""
    index: list[Any] = [slice(max(0, (n - MOST_PIXELS) // 2), (n + MOST_PIXELS) // 2) for n in field.shape[:n_spatial]]
    if n_spatial == 3:
        index[2] = field.shape[2] // 2
    return field[tuple(index)]


def cut_of(field: Any, n_spatial: int) -> str:
    """Say in a few words which part of a field `centre_of` selects. Empty if it is all of it."""
    shape = field.shape[:n_spatial]
    plane = f"plane z = {shape[2] // 2} of {shape[2]}" if n_spatial == 3 else ""
    sizes = [min(n, MOST_PIXELS) for n in shape[:2]]
    middle = (
        f"middle {value_text(tuple(sizes))} of {value_text(tuple(shape[:2]))}" if max(shape[:2]) > MOST_PIXELS else ""
    )
    return ", ".join(filter(None, (plane, middle)))


def picture(values: Array, caption: str, *, largest: float | None = None, diverging: bool = False) -> str:
    """Draw a map as an image is shown, with y downwards. A row of numbers becomes a line, three channels a colour.

    Parameters
    ----------
    values : ndarray, shape (nx,), (nx, ny) or (nx, ny, 3)
        Phases, real numbers, or channels from 0 to 1.
    caption : str
        Text below the picture.
    largest : float, optional
        Value of the last colour; the first colour then stands for 0. Default: the colours span the values.
    diverging : bool
        Whether the colours are symmetric about 0.
    """
    if values.ndim == 1:
        return curves(np.arange(len(values)), values[None], caption)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if largest is not None:
        low, high = 0.0, largest
    if diverging:
        high = max(abs(low), abs(high))
        low = -high
    if values.ndim == 3:
        pixels = (np.clip(np.nan_to_num(values), 0.0, 1.0) * 255).astype(np.uint8)
    else:
        shares = (np.nan_to_num(values.astype(float), nan=low) - low) / ((high - low) or 1.0)
        pixels = _colours(DIVERGING if diverging else SEQUENTIAL, shares)
    rows = np.ascontiguousarray(pixels.swapaxes(0, 1))
    data = io.BytesIO()
    Image.fromarray(rows).save(data, "PNG")
    scale = PICTURE / max(rows.shape[:2])
    height, width = (round(scale * n) for n in rows.shape[:2])
    source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    return _figure(f'<img width="{width}" height="{height}" src="{source}" alt="{escape(caption)}">', caption)


def _svg(content: str, width: int) -> str:
    frame = f'<path d="M0 0V{PICTURE}H{width}" fill="none" stroke="currentColor" stroke-opacity=".5" stroke-width="1"/>'
    return f'<svg width="{width}" height="{PICTURE}" viewBox="0 0 {width} {PICTURE}" role="img">{frame}{content}</svg>'


def _scaled(values: Array, size: float) -> Array:
    """Scale values to positions from 0 to `size`. Values that are not finite stay so."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    return np.asarray((values - low) / ((high - low) or 1.0) * size)


def curves(x: Array, ys: Array, caption: str) -> str:
    """Draw several lines over x. `ys` has shape (n_lines, n)."""
    width = int(1.6 * PICTURE)
    right, up = _scaled(np.asarray(x, dtype=float), width), PICTURE - _scaled(np.asarray(ys, dtype=float), PICTURE)
    lines = [
        f'<polyline fill="none" stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="1.5" points="'
        + " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(right, line, strict=True) if np.isfinite(b))
        + '"/>'
        for number, line in enumerate(up)
    ]
    return _figure(_svg("".join(lines), width), caption)


def bars(values: Array, caption: str) -> str:
    """Draw bars. Their heights lie between 0 and 1."""
    width = max(40, min(2 * PICTURE, 14 * len(values)))
    step = width / max(1, len(values))
    heights = np.clip(values, 0.0, 1.0) * PICTURE
    drawn = [
        f'<rect x="{i * step + 0.15 * step:.1f}" y="{PICTURE - height:.1f}" width="{0.7 * step:.1f}" '
        f'height="{height:.1f}" fill="{COLOURS[0]}"/>'
        for i, height in enumerate(heights)
    ]
    return _figure(_svg("".join(drawn), width), caption)


def points(xy: Array, caption: str) -> str:
    """Draw points of shape (n, 2). Of very many points, only some are drawn."""
    shown = xy[:: max(1, len(xy) // MOST_POINTS)]
    right, up = _scaled(shown[:, 0], PICTURE), PICTURE - _scaled(shown[:, 1], PICTURE)
    drawn = [
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="1.8" fill="{COLOURS[0]}" fill-opacity=".7"/>'
        for a, b in zip(right, up, strict=True)
        if np.isfinite(a + b)
    ]
    return _figure(_svg("".join(drawn), PICTURE), caption)


class WithCard:
    """Mixin for scikit-learn estimators: in a notebook, a card with the fitted results follows the usual diagram."""

    @abstractmethod
    def _card(self) -> str:
        """Make the HTML of the card of the fitted estimator."""

    def _card_if_fitted(self) -> str:
        try:
            check_is_fitted(self)
        except NotFittedError:
            return ""
        return self._card()

    def _repr_html_inner(self) -> str:
        return str(super()._repr_html_inner()) + self._card_if_fitted()  # type: ignore[misc]

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        bundle: dict[str, str] = super()._repr_mimebundle_(**options)  # type: ignore[misc]
        if "text/html" in bundle:
            bundle["text/html"] += self._card_if_fitted()
        return bundle
