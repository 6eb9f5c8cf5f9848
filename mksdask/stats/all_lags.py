"""2-point statistics of one volume for all lags, by a Fourier transform out of core.

There are three passes, each from one store to the next. The first transforms slabs of planes along their two axes. The
second transforms pencils of lines along the first axis, multiplies the spectra of each pair, and transforms products
back. The third transforms slabs of lags back along the other two axes. No task holds more than a slab or a pencil.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import dask
import dask.array as da
import numpy as np

from mksdask.arrays import Array
from mksdask.compute.blocks import array_of, computed, map_parts
from mksdask.compute.graph import stored_array
from mksdask.compute.plans import Limit, Plan, Stage, size_text
from mksdask.stats.lags import LagFFT
from mksdask.stats.microstructure import (
    SLAB_VOXELS,
    VolumeCorrelation,
    VolumeFields,
    mask_fields,
    mask_pairs,
)
from mksdask.stats.pencils import PencilFFT, Pencils, three_axes
from mksdask.storage.atomic import SCRATCH, Location, Url, check_ours, remove_store
from mksdask.storage.blocks import layout_begun
from mksdask.storage.opening import open_array
from mksdask.storage.results import Result

Span: TypeAlias = tuple[int, int]  # the first position along an axis, and the first after the span

LEAST_PARTS = 8  # a pass has at least so many tasks, if the volume has so many planes, so that all workers have some
# A task holds its result twice: as the block that it writes, and as the object in the store. Compression adds one more.
WRITTEN = 2
# What the names of the stores that are kept beside the scratch store end with.
PASSES = ("planes", "lines")
# What the record of the scratch store calls the sizes of the parts of each pass.
_LAYOUT = "planes, rows and lags"


@dataclass(frozen=True)
class _Passes:
    """The kernels of the three passes. `pairs` holds numbers of fields. The fields and pairs of the mask come last."""

    fields: VolumeFields
    transform: LagFFT
    pencil: PencilFFT
    pairs: tuple[tuple[int, int], ...]
    n_masks: int  # number of fields of the mask, which is also that of its pairs

    @classmethod
    def of(cls, problem: VolumeCorrelation) -> _Passes:
        """Choose the kernels for a problem.

        With a mask, all numbers are in double precision, because numbers of observed pairs must round to integers.
        """
        fields = problem.fields
        own: list[tuple[int, int]] = []
        if problem.volume.confidence is not None:
            fields = replace(fields, dtype=np.dtype(np.float64))
            own = list(mask_pairs(problem.volume.confidence))
        transform = LagFFT.of(problem.volume.spatial, problem.volume.grid.periodic, None, real=problem.is_real)
        lengths: tuple[int, int, int] = three_axes(transform.lengths, 1)
        of_states = [(fields.states.index(a), fields.states.index(b)) for a, b in problem.indices]
        n_states = len(fields.states)
        return cls(
            fields,
            transform,
            PencilFFT(lengths, problem.is_real),
            (*of_states, *((n_states + a, n_states + b) for a, b in own)),
            len(own),
        )

    @property
    def n_fields(self) -> int:
        """Number of fields that are transformed."""
        return len(self.fields.states) + self.n_masks

    @property
    def spectral(self) -> np.dtype[Any]:
        """The dtype of spectra, which are kept between the passes."""
        return np.result_type(self.fields.dtype, np.complex64)

    @property
    def lags(self) -> tuple[Array, Array, Array]:
        """Positions in the transform of the lags that are kept, along three axes."""
        lags = three_axes(self.transform.lags, np.zeros(1, int))
        x, y, z = (along % n for along, n in zip(lags, self.pencil.lengths, strict=True))
        return x, y, z

    def planes(self, values: Array, confidence: Array | None = None) -> Array:
        """Compute the spectra of planes from voxels (n, ...): (n_fields, n, *plane)."""
        pencils = Pencils(self.pencil, self.fields.dtype)
        shape = three_axes(values.shape[: self.fields.n_spatial], 1)
        out = np.empty((self.n_fields, shape[0], *self.pencil.plane), dtype=self.spectral)
        for start, state, field in self.fields.of_block(values, confidence):
            position = self.fields.states.index(state)
            pencils.transform_planes(field, out[position, start : start + len(field)])
        if confidence is not None:
            dtype = np.float64 if self.pencil.real else np.complex128
            for start, number, field in mask_fields(confidence, dtype):
                if number < self.n_masks:
                    position = len(self.fields.states) + number
                    pencils.transform_planes(field, out[position, start : start + len(field)])
        return out

    def read_planes(self, slab: Span, source: Any, mask: Any) -> Array:
        """Read a slab of planes from arrays, and compute its spectra."""
        part = slice(*slab) if self.fields.n_spatial > 1 else slice(None)
        return self.planes(np.asarray(source[part]), None if mask is None else np.asarray(mask[part]))

    def lines(self, rows: Span, source: Callable[[], Any]) -> Array:
        """Compute the products of pairs at lags along the first axis: (n_pairs, n_lags, rows, frequencies)."""
        spectra = np.asarray(source()[:, :, slice(*rows)])
        shape = (len(self.pairs), len(self.lags[0]), *spectra.shape[2:])
        spectra = spectra.reshape(*spectra.shape[:2], -1)
        out = np.empty((*shape[:2], spectra.shape[2]), dtype=self.spectral)
        Pencils(self.pencil, self.fields.dtype).correlate_lines(spectra, self.pairs, self.lags[0], out)
        return out.reshape(shape)

    def at_lags(self, slab: Span, source: Callable[[], Any], dtype: np.dtype[Any]) -> Array:
        """Compute the statistics of a slab of lags along the first axis: (n, *other lags, n_pairs)."""
        spectra = np.asarray(source()[:, slice(*slab)])
        pencils = Pencils(self.pencil, self.fields.dtype)
        _, *keep = self.lags
        real = self.fields.dtype if self.pencil.real else self.spectral
        shape = (slab[1] - slab[0], *map(len, keep))
        n_pairs = len(self.pairs) - self.n_masks
        omega = self._count(slab)
        if self.n_masks:
            of_mask = np.empty((self.n_masks, *shape), dtype=real)
            for values, out in zip(spectra[n_pairs:], of_mask, strict=True):
                pencils.invert_planes(values, (keep[0], keep[1]), out)
            omega = np.where(np.rint(of_mask[-1].real) > 0, of_mask[0].real, np.nan)
        result = np.empty((*shape, n_pairs), dtype=dtype)
        values = np.empty(shape, dtype=real)
        for position in range(n_pairs):
            pencils.invert_planes(spectra[position], (keep[0], keep[1]), values)
            with np.errstate(invalid="ignore"):
                result[..., position] = values / omega
        return result.reshape(-1, *self.transform.shape[1:], n_pairs) if self.fields.n_spatial > 1 else result[0, 0]

    def _count(self, slab: Span) -> Array:
        x, y, z = three_axes(self.transform.counts_along(), np.ones(1))
        return np.asarray(x[slice(*slab), None, None] * y[:, None] * z)


@dataclass(frozen=True)
class _Sizes:
    """Sizes of the parts of each pass (planes of a slab, rows of a pencil, lags of a slab), and its stage."""

    slab: int
    rows: int
    lags: int
    stages: tuple[Stage, ...]

    @classmethod
    def of(cls, passes: _Passes, problem: VolumeCorrelation, limit: Limit, scratch: Url | None) -> _Sizes:
        """Choose the largest sizes that fit, because then each task reads the fewest parts from the store before it.

        Passes that an earlier call began in `scratch` keep their sizes, if these fit.
        """
        x, _, _ = three_axes(problem.volume.spatial, 1)
        y, z = passes.pencil.plane
        n_lags = [len(along) for along in passes.lags]
        itemsize, size = passes.spectral.itemsize, problem.result_dtype.itemsize
        voxels = (
            int(np.prod(three_axes(problem.volume.spatial, 1)[1:]))
            * problem.volume.voxel_bytes
            * (1 + (not problem.volume.is_stored))
        )
        expanded = 2 * itemsize * SLAB_VOXELS
        n_pairs = len(problem.pairs)
        plane, pairs = passes.n_fields * y * z * itemsize, len(passes.pairs) * z * itemsize
        lags = n_lags[1] * n_lags[2]

        def planes(n: int) -> int:
            return n * (voxels + WRITTEN * plane) + min(expanded, 2 * itemsize * n * y * z)

        def lines(n: int) -> int:
            return n * (3 * plane * x // (2 * y) + WRITTEN * pairs * n_lags[0])

        def at_lags(n: int) -> int:
            inverse = lags * itemsize * (1 + 2 * bool(passes.n_masks))
            return n * (2 * pairs * y + (WRITTEN + 1) * lags * n_pairs * size + inverse)

        slab = _most(planes, x, limit, "a plane of the volume")
        if isinstance(problem.volume.data, da.Array) and len(problem.volume.spatial) > 1:
            # A chunk that is cut is read and decompressed once for each of its parts.
            depth = int(problem.volume.data.chunksize[0])
            slab = slab - slab % depth if slab >= depth else -(-depth // -(-depth // slab))
        rows = _most(lines, y, limit, "a row of pencils")
        thick = _most(at_lags, n_lags[0], limit, "a plane of lags")
        begun = None if scratch is None else layout_begun(scratch, _LAYOUT, 3)
        if begun is not None and all(n <= most for n, most in zip(begun, (x, y, n_lags[0]), strict=True)):
            needed = max(task(n) for task, n in zip((planes, lines, at_lags), begun, strict=True))
            slab, rows, thick = begun if needed <= limit.task_bytes else (slab, rows, thick)
        n = float(np.prod(passes.pencil.lengths))
        steps = 2.5 * n * np.log2(max(n, 2.0)) * (1 if passes.pencil.real else 2) / 3
        read = float(np.prod(problem.volume.spatial)) * problem.volume.voxel_bytes
        spectra, products = float(plane * x), float(pairs * y * n_lags[0])
        result = float(n_lags[0] * lags * n_pairs * size)
        stages = (
            Stage("planes", -(-x // slab), planes(slab), read, spectra, 2 * steps * passes.n_fields),
            Stage(
                "lines", -(-y // rows), lines(rows), spectra, products, steps * (passes.n_fields + len(passes.pairs))
            ),
            Stage("lags", -(-n_lags[0] // thick), at_lags(thick), products, result, 2 * steps * len(passes.pairs)),
        )
        whole, kept = replace(limit, n_threads=1), int(result) + stages[-1].task_bytes
        if scratch is None and kept > whole.task_bytes:
            remedy = "pass scratch=, a store from which the result is read lazily, or a cutoff"
            raise whole.refusal(kept, f"a task beside all lags, which take {size_text(result)},", remedy)
        return cls(slab, rows, thick, stages)


def _most(task_bytes: Callable[[int], int], n: int, limit: Limit, what: str) -> int:
    """Find the largest part of n that fits into a task."""
    if task_bytes(1) > limit.task_bytes:
        raise limit.refusal(task_bytes(1), what, "take fewer pairs or states, or pass a cutoff")
    wanted = -(-n // LEAST_PARTS)
    return max(k for k in range(1, wanted + 1) if task_bytes(k) <= limit.task_bytes)


def correlate_all_lags(problem: VolumeCorrelation, limit: Limit, *, scratch: Url | None = None) -> Any:
    """Compute the statistics at lags -(n//2) … (n-1)//2 along each axis; see `correlate_volume`."""
    passes = _Passes.of(problem)
    sizes = _Sizes.of(passes, problem, limit, scratch)
    if scratch is not None:
        return _run(passes, sizes, problem, scratch)
    with tempfile.TemporaryDirectory(dir=dask.config.get("temporary-directory", None)) as folder:
        return computed(_run(passes, sizes, problem, f"{folder}/statistics.zarr"))


def plan_all_lags(problem: VolumeCorrelation, limit: Limit, *, scratch: Url | None = None) -> Plan:
    """Plan `correlate_all_lags`."""
    passes = _Passes.of(problem)
    sizes = _Sizes.of(passes, problem, limit, scratch)
    where = "a temporary folder" if scratch is None else "the scratch store"
    spectra, products = (size_text(stage.bytes_written) for stage in sizes.stages[:2])
    notes = (f"Between the passes, {spectra} and then {products} are kept beside {where}.",)
    return Plan(
        "correlate_volume",
        {
            "volume": problem.volume.spatial,
            "lags": passes.transform.shape,
            "FFT lengths": passes.transform.lengths,
            "planes of a slab": sizes.slab,
            "rows of a pencil": sizes.rows,
            "lags of a slab": sizes.lags,
        },
        sizes.stages,
        limit,
        notes,
    )


@dataclass(frozen=True)
class _Opening:
    """Opens the array that the pass before has written, in the task that reads it."""

    url: str

    def __call__(self) -> Any:
        return open_array(Location.of(self.url), "result")


def _run(passes: _Passes, sizes: _Sizes, problem: VolumeCorrelation, scratch: Url) -> Any:
    """Write the statistics to `scratch`. Continue with the pass in which an earlier call stopped."""
    urls = [f"{str(scratch).rstrip('/')}.{name}" for name in PASSES]
    for url in urls:
        check_ours(Location.of(url), SCRATCH)
    planes = _planes(passes, sizes, problem)
    rows = _cut(passes.pencil.plane[0], sizes.rows)
    opening, parts = (_Opening(urls[0]),), [(span,) for span in rows]
    tasks = map_parts(passes.lines, parts, name="lines", shared=opening, of=(planes,), unit="lines")
    shape: tuple[int, ...] = (len(passes.pairs), len(passes.lags[0]), *passes.pencil.plane)
    lines = _joined(tasks, rows, shape, passes.spectral, axis=2)
    slabs = _cut(passes.transform.shape[0] if len(problem.volume.spatial) > 1 else 1, sizes.lags)
    dtype, shape = problem.result_dtype, (*passes.transform.shape, len(problem.pairs))
    shared = (_Opening(urls[1]), dtype)
    parts = [(span,) for span in slabs]
    tasks = map_parts(passes.at_lags, parts, name="lags", shared=shared, of=(lines, dtype), unit="planes")
    lags = _joined(tasks, slabs, shape, dtype, axis=0)
    z = passes.pencil.plane[1]
    of_planes, of_lines = (
        Result.of(lazy, url, "scratch", parts=(1, step, sizes.rows, z), is_compressed=False)
        for lazy, url, step in ((planes, urls[0], sizes.slab), (lines, urls[1], sizes.lags))
    )
    layout = {_LAYOUT: (sizes.slab, sizes.rows, sizes.lags)}
    labelled, given = problem.label(lags, passes.transform.lags, "two_point_statistics"), problem.volume
    result = Result.of(labelled, scratch, "scratch", reads=(given.data, given.confidence), layout=layout)
    # The passes before are removed at the end, so nobody else may use them.
    with result.blocks.location.locked():
        if result.blocks.stale_sources():
            for url in urls:
                remove_store(url, SCRATCH)
        if result.blocks.state() != "complete":
            # What the last pass would refuse is refused before the first.
            result.blocks.open()
            if of_lines.blocks.state() != "complete":
                of_planes.write()
                of_lines.write()
            remove_store(urls[0], SCRATCH)
        stored = result.write()
        for url in urls:
            remove_store(url, SCRATCH)
        return stored


def _planes(passes: _Passes, sizes: _Sizes, problem: VolumeCorrelation) -> Any:
    """Prepare the first pass: (n_fields, x, *plane)."""
    n = problem.volume.spatial[0] if len(problem.volume.spatial) > 1 else 1
    spans, given = _cut(n, sizes.slab), (problem.volume.data, problem.volume.confidence)
    if problem.volume.is_stored:
        shared, parts = tuple(map(stored_array, given)), [(span,) for span in spans]
        tasks = map_parts(passes.read_planes, parts, name="planes", shared=shared, of=given, unit="planes")
    else:
        slabs = [high - low for low, high in spans]
        blocks = [_slabs_of(array, slabs, len(problem.volume.spatial)) for array in given if array is not None]
        tasks = map_parts(passes.planes, list(zip(*blocks, strict=True)), name="planes", of=())
    return _joined(tasks, spans, (passes.n_fields, n, *passes.pencil.plane), passes.spectral, axis=1)


def _slabs_of(array: Any, sizes: Sequence[int], n_spatial: int) -> list[Any]:
    """Cut an array that is not stored into delayed slabs of whole planes."""
    lazy = da.asarray(array)
    lazy = lazy.rechunk(dict.fromkeys(range(1, lazy.ndim), -1) | {0: tuple(sizes) if n_spatial > 1 else -1})
    return list(lazy.to_delayed(optimize_graph=False).ravel())


def _joined(tasks: list[Any], spans: list[Span], shape: tuple[int, ...], dtype: np.dtype[Any], *, axis: int) -> Any:
    """Join the results of tasks, one for each span of an axis, to the array of a pass."""
    arrays = []
    for task, (low, high) in zip(tasks, spans, strict=True):
        extent = shape if len(tasks) == 1 else (*shape[:axis], high - low, *shape[axis + 1 :])
        arrays.append(array_of(task, extent, dtype, name="slab"))
    return np.concatenate(arrays, axis=axis)


def _cut(n: int, size: int) -> list[Span]:
    return [(low, min(low + size, n)) for low in range(0, n, size)]
