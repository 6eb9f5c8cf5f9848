"""Images for VTK and ParaView: `.vti` files and `.vtkhdf` files. Voxels are cells, and values are written in order."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import h5py
import numpy as np

from mksdask.exporters.fields import Exported
from mksdask.importers.formats.vtk_xml_files import XML_TYPES

# ParaView lists arrays by name, and nobody reads longer lists.
MOST_ARRAYS = 1000
# A chunk of an HDF5 file has at most so many voxels along each axis.
CHUNK = {1: 2**18, 2: 2**9, 3: 2**6}
_TYPES = {np.dtype(code): name for name, code in XML_TYPES.items()}


def _three(values: Sequence[float], fill: float) -> list[float]:
    return [*values, *[fill] * (3 - len(values))]


def _extent(field: Exported) -> list[int]:
    """Numbers of points along x, y, z, one more than voxels; axes that are not there are flat."""
    return [end for n in _three(field.shape, 0) for end in (0, int(n))]


def _origin(field: Exported) -> list[float]:
    """Corner of the first voxel. Coordinates of the package are those of its middle."""
    return _three([first - 0.5 * step for first, step in zip(field.origin, field.steps, strict=True)], 0.0)


def _named_arrays(fields: Sequence[Exported]) -> list[tuple[str, Exported, int | None]]:
    """List the arrays of a file: one for each field, or for each sample of it.

    Raises
    ------
    ValueError
        If there are too many.
    """
    found = [
        (f"{field.name} {label}" if field.has_samples else field.name, field, number if field.has_samples else None)
        for field in fields
        for number, label in enumerate(field.samples or ("",))
    ]
    if len(found) > MOST_ARRAYS:
        msg = f"there are {len(found)} arrays, more than {MOST_ARRAYS} in one file; export some samples, or OME-Zarr"
        raise ValueError(msg)
    return found


def _components(field: Exported) -> int:
    return len(field.components) or 1


def write_vti(path: Path, fields: Sequence[Exported]) -> None:
    """Write fields on one grid into a `.vti` file, with raw values after the header."""
    field, arrays = fields[0], _named_arrays(fields)
    lines, offset = [], 0
    for name, each, _ in arrays:
        n_bytes = int(np.prod(each.shape)) * _components(each) * each.dtype.itemsize
        names = "".join(f" ComponentName{number}={quoteattr(text)}" for number, text in enumerate(each.components))
        unit = f'<InformationKey name="UNITS_LABEL" location="vtkDataArray">{escape(each.value_unit)}</InformationKey>'
        lines.append(
            f'<DataArray type="{_TYPES[each.dtype]}" Name={quoteattr(name)} NumberOfComponents="{_components(each)}"'
            f'{names} format="appended" offset="{offset}">{unit if each.value_unit else ""}</DataArray>'
        )
        offset += 8 + n_bytes
    extent = " ".join(map(str, _extent(field)))
    numbers = [" ".join(map(repr, map(float, values))) for values in (_origin(field), _three(field.steps, 1.0))]
    notes = "".join(
        f'<Array type="String" Name="{name}" NumberOfTuples="{len(texts)}" format="ascii">'
        f"{' '.join(str(byte) for text in texts for byte in (*text.encode(), 0))}</Array>"
        for name, texts in _notes(field).items()
    )
    order = "LittleEndian" if sys.byteorder == "little" else "BigEndian"
    head = (
        f'<?xml version="1.0"?>\n<VTKFile type="ImageData" version="1.0" byte_order="{order}" header_type="UInt64">\n'
        f'<ImageData WholeExtent="{extent}" Origin="{numbers[0]}" Spacing="{numbers[1]}">\n'
        f'<FieldData>{notes}</FieldData>\n<Piece Extent="{extent}">\n<CellData Scalars={quoteattr(arrays[0][0])}>\n'
        + "\n".join(lines)
        + '\n</CellData>\n</Piece>\n</ImageData>\n<AppendedData encoding="raw">\n_'
    )
    with path.open("wb") as file:
        file.write(head.encode())
        for _, each, sample in arrays:
            n_bytes = int(np.prod(each.shape)) * _components(each) * each.dtype.itemsize
            file.write(np.uint64(n_bytes).tobytes())
            for slab in each.slabs(sample):
                file.write(slab.data)
        file.write(b"\n</AppendedData>\n</VTKFile>\n")


def _notes(field: Exported) -> dict[str, tuple[str, ...]]:
    """Texts that go with the arrays."""
    return {name: texts for name, texts in (("units", (field.unit or "",)), ("phases", field.phases)) if any(texts)}


def write_vtkhdf(path: Path, fields: Sequence[Exported]) -> None:
    """Write fields on one grid into a `.vtkhdf` file."""
    field = fields[0]
    with h5py.File(path, "w", track_order=True) as file:
        root = file.create_group("VTKHDF", track_order=True)
        root.attrs["Version"] = np.array([2, 0])
        root.attrs.create("Type", np.bytes_("ImageData"), dtype="S9")
        root.attrs["WholeExtent"] = np.array(_extent(field))
        root.attrs["Origin"] = np.array(_origin(field))
        root.attrs["Spacing"] = np.array(_three(field.steps, 1.0))
        root.attrs["Direction"] = np.eye(3).ravel()
        for name, texts in _notes(field).items():
            # VTK does not read texts in FieldData of these files, and ignores attributes that it does not know.
            root.attrs.create(name, list(texts), dtype=h5py.string_dtype())
        for name, each, sample in _named_arrays(fields):
            # Axes that are not there have no axis in the array either.
            n_axes, tail = len(each.shape), (_components(each),) * each.has_components
            shape = each.shape[::-1] + tail
            chunks = tuple(min(n, CHUNK[n_axes]) for n in each.shape[::-1]) + tail
            data = root.create_dataset(
                f"CellData/{name.replace('/', ' per ')}",
                shape,
                each.dtype,
                chunks=chunks,
                compression="gzip",
                compression_opts=1,
                shuffle=True,
            )
            # Attributes that VTK does not know, for other readers of HDF5.
            names = {"components": list(each.components), "units": each.value_unit}
            data.attrs.update({key: text for key, text in names.items() if text})
            position = 0
            for slab in each.slabs(sample):
                data[position : position + len(slab)] = slab
                position += len(slab)
