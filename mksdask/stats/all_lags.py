"""2-point statistics of one volume for all lags, by a Fourier transform out of core.

Three passes, each from one store to the next: slabs of planes are transformed along their two axes; pencils of lines
along the first axis are transformed, multiplied pair by pair, and transformed back; slabs of lags are transformed back
along the other two. No task holds more than a slab or a pencil.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from mksdask.compute.graph import stored_array
from mksdask.compute.operation import Limit, Plan, Stage, size_text
from mksdask.stats.lags import LagTransform
from mksdask.stats.microstructure import (
    SLAB_VOXELS,
    VolumeFields,
    VolumeProblem,
    mask_fields,
    mask_pairs,
)
from mksdask.stats.pencils import Pencils, PencilTransform, three_axes
from mksdask.storage.atomic import SCRATCH, Location, Url, check_ours, remove_store
from mksdask.storage.blocks import is_kept, keep, reserve, write_blocks
from mksdask.storage.opening import open_array

Array: TypeAlias = NDArray[Any]
Span: TypeAlias = tuple[int, int]  # the first along an axis, and the first beyond

LEAST_PARTS = 8  # tasks of a pass, if the volume has as many planes: some for each worker
# A block that a task writes, and the object that it becomes; one more where that is compressed.
WRITTEN = 2


@dataclass(frozen=True)
class _Passes:
    """The kernels of the three passes. `pairs` are numbers of fields; those of the mask come last."""

    fields: VolumeFields
    transform: LagTransform
    pencil: PencilTransform
    pairs: tuple[tuple[int, int], ...]
    n_masks: int  # fields of the mask, and pairs of them

    @classmethod
    def of(cls, problem: VolumeProblem) -> _Passes:
        """What a problem needs. Numbers of observed pairs must round to integers, so masks take double precision."""
        fields = problem.fields
        own: list[tuple[int, int]] = []
        if problem.mask is not None:
            fields = replace(fields, dtype=np.dtype(np.float64))
            own = list(mask_pairs(problem.mask))
        transform = LagTransform.plan(problem.spatial, problem.periodic, None, real=problem.is_real)
        lengths: tuple[int, int, int] = three_axes(transform.lengths, 1)
        of_states = [(fields.states.index(a), fields.states.index(b)) for a, b in problem.indices]
        n_states = len(fields.states)
        return cls(
            fields,
            transform,
            PencilTransform(lengths, problem.is_real),
            (*of_states, *((n_states + a, n_states + b) for a, b in own)),
            len(own),
        )

    @property
    def n_fields(self) -> int:
        """Fields that are transformed."""
        return len(self.fields.states) + self.n_masks

    @property
    def spectral(self) -> np.dtype[Any]:
        """What is kept between the passes."""
        return np.result_type(self.fields.dtype, np.complex64)

    @property
    def lags(self) -> tuple[Array, Array, Array]:
        """Where the wanted lags stand in the transform, along three axes."""
        lags = three_axes(self.transform.lags, np.zeros(1, int))
        x, y, z = (along % n for along, n in zip(lags, self.pencil.lengths, strict=True))
        return x, y, z

    def planes(self, values: Array, confidence: Array | None = None) -> Array:
        """Spectra of planes, from voxels (n, ...): (n_fields, n, *plane)."""
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
        """Spectra of a slab of planes that the task reads by itself."""
        part = slice(*slab) if self.fields.n_spatial > 1 else slice(None)
        return self.planes(np.asarray(source[part]), None if mask is None else np.asarray(mask[part]))

    def lines(self, rows: Span, source: Callable[[], Any]) -> Array:
        """Products of the spectra of pairs at lags along the first axis: (n_pairs, n_lags, rows, frequencies)."""
        spectra = np.asarray(source()[:, :, slice(*rows)])
        shape = (len(self.pairs), len(self.lags[0]), *spectra.shape[2:])
        spectra = spectra.reshape(*spectra.shape[:2], -1)
        out = np.empty((*shape[:2], spectra.shape[2]), dtype=self.spectral)
        Pencils(self.pencil, self.fields.dtype).correlate_lines(spectra, self.pairs, self.lags[0], out)
        return out.reshape(shape)

    def at_lags(self, slab: Span, source: Callable[[], Any], dtype: np.dtype[Any]) -> Array:
        """Statistics of a slab of lags along the first axis: (n, *other lags, n_pairs)."""
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
    """How the passes are cut: planes of a slab, rows of a pencil, lags of a slab, and what each task takes."""

    slab: int
    rows: int
    lags: int
    stages: tuple[Stage, ...]

    @classmethod
    def of(cls, passes: _Passes, problem: VolumeProblem, limit: Limit) -> _Sizes:
        """The largest that fit, for the fewest parts to be sought in the stores between."""
        x, _, _ = three_axes(problem.spatial, 1)
        y, z = passes.pencil.plane
        n_lags = [len(along) for along in passes.lags]
        itemsize, size = passes.spectral.itemsize, _result_dtype(problem).itemsize
        voxels = int(np.prod(three_axes(problem.spatial, 1)[1:])) * problem.voxel_bytes * (1 + (not problem.is_stored))
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
        if isinstance(problem.data, da.Array) and len(problem.spatial) > 1:
            # A chunk that is cut is read and unpacked for each of its parts.
            depth = int(problem.data.chunksize[0])
            slab = slab - slab % depth if slab >= depth else -(-depth // -(-depth // slab))
        rows = _most(lines, y, limit, "a row of pencils")
        thick = _most(at_lags, n_lags[0], limit, "a plane of lags")
        n = float(np.prod(passes.pencil.lengths))
        steps = 2.5 * n * np.log2(max(n, 2.0)) * (1 if passes.pencil.real else 2) / 3
        read = float(np.prod(problem.spatial)) * problem.voxel_bytes
        spectra, products = float(plane * x), float(pairs * y * n_lags[0])
        result = float(n_lags[0] * lags * n_pairs * size)
        stages = (
            Stage("planes", -(-x // slab), planes(slab), read, spectra, 2 * steps * passes.n_fields),
            Stage(
                "lines", -(-y // rows), lines(rows), spectra, products, steps * (passes.n_fields + len(passes.pairs))
            ),
            Stage("lags", -(-n_lags[0] // thick), at_lags(thick), products, result, 2 * steps * len(passes.pairs)),
        )
        return cls(slab, rows, thick, stages)


def _most(task_bytes: Callable[[int], int], n: int, limit: Limit, what: str) -> int:
    """As many of n as fit into a task."""
    if task_bytes(1) > limit.task_bytes:
        raise limit.refusal(task_bytes(1), what, "take fewer pairs or states")
    wanted = -(-n // LEAST_PARTS)
    return max(k for k in range(1, wanted + 1) if task_bytes(k) <= limit.task_bytes)


def _result_dtype(problem: VolumeProblem) -> np.dtype[Any]:
    return problem.dtype if problem.is_real else np.result_type(problem.dtype, np.complex64)


def correlate_all_lags(problem: VolumeProblem, limit: Limit, *, scratch: Url | None = None) -> Any:
    """Statistics at lags -(n//2) … (n-1)//2 along each axis; see `correlate_volume`."""
    passes = _Passes.of(problem)
    sizes = _Sizes.of(passes, problem, limit)
    if scratch is not None:
        return _run(passes, sizes, problem, scratch)
    needed = sizes.stages[-1].bytes_written
    if needed > limit.worker_bytes - sum(stage.task_bytes for stage in sizes.stages[-1:]):
        msg = (
            f"all lags take {size_text(needed)}, more than a worker of {size_text(limit.worker_bytes)} holds; pass "
            "scratch=, where the result is kept and from where it is read lazily, or a cutoff"
        )
        raise ValueError(msg)
    with tempfile.TemporaryDirectory(dir=dask.config.get("temporary-directory", None)) as folder:
        return _run(passes, sizes, problem, f"{folder}/statistics.zarr").compute()


def plan_all_lags(problem: VolumeProblem, limit: Limit, *, scratch: Url | None = None) -> Plan:
    """What `correlate_all_lags` will take."""
    passes = _Passes.of(problem)
    sizes = _Sizes.of(passes, problem, limit)
    where = "a temporary folder" if scratch is None else "the scratch store"
    spectra, products = (size_text(stage.bytes_written) for stage in sizes.stages[:2])
    notes = (f"Between the passes, {spectra} and then {products} are kept beside {where}.",)
    return Plan(
        "correlate_volume",
        {
            "volume": problem.spatial,
            "lags": passes.transform.shape,
            "transform": passes.transform.lengths,
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
    """Opens the array that an earlier pass has written, in the task that reads it."""

    url: str

    def __call__(self) -> Any:
        return open_array(Location.of(self.url), "result")


def _run(passes: _Passes, sizes: _Sizes, problem: VolumeProblem, scratch: Url) -> Any:
    """Write the statistics to `scratch`, going on with the pass that an earlier call was in."""
    urls = [f"{str(scratch).rstrip('/')}.{name}" for name in ("planes", "lines")]
    for url in urls:
        check_ours(Location.of(url), SCRATCH)
    token = dask.base.tokenize(passes, sizes, problem.data, problem.mask)
    planes = _planes(passes, sizes, problem, token)
    lines = _spans(
        passes.lines,
        sizes.rows,
        passes.pencil.plane[0],
        urls[0],
        name=f"lines-{token}",
        axis=2,
        dtype=passes.spectral,
        shape=(len(passes.pairs), len(passes.lags[0]), *passes.pencil.plane),
    )
    shape = (*passes.transform.shape, len(problem.pairs))
    first = passes.transform.shape[0] if len(problem.spatial) > 1 else 1
    lags = _spans(
        passes.at_lags,
        sizes.lags,
        first,
        urls[1],
        name=f"lags-{token}",
        axis=0,
        dtype=_result_dtype(problem),
        shape=shape,
        arguments=(_result_dtype(problem),),
    )
    result = problem.label(lags, passes.transform.lags, "two_point_statistics")
    if not is_kept(result, scratch, "scratch"):
        reserve(result, scratch, "scratch")
        z = passes.pencil.plane[1]
        if not is_kept(lines, urls[1], "scratch"):
            write_blocks(planes, urls[0], "scratch", parts=(1, sizes.slab, sizes.rows, z), compressed=False)
            write_blocks(lines, urls[1], "scratch", parts=(1, sizes.lags, sizes.rows, z), compressed=False)
        remove_store(urls[0], SCRATCH)
    stored = keep(result, scratch, "scratch")
    for url in urls:
        remove_store(url, SCRATCH)
    return stored


def _planes(passes: _Passes, sizes: _Sizes, problem: VolumeProblem, token: str) -> da.Array:
    """The first pass: (n_fields, x, *plane)."""
    source = stored_array(problem.data)
    mask = None if problem.mask is None else stored_array(problem.mask)
    kernel = dask.delayed(passes, name=f"planes-kernel-{token}")
    n = problem.spatial[0] if len(problem.spatial) > 1 else 1
    spans = _cut(n, sizes.slab)
    if problem.is_stored:
        whole, weights = dask.delayed(source, name=f"volume-{token}"), None
        if mask is not None:
            weights = dask.delayed(mask, name=f"confidence-{token}")
        tasks = [
            kernel.read_planes(span, whole, weights, dask_key_name=f"planes-{token}-{number}")
            for number, span in enumerate(spans)
        ]
    else:
        blocks = [
            _slabs_of(array, [high - low for low, high in spans], len(problem.spatial))
            for array in (problem.data, problem.mask)
            if array is not None
        ]
        tasks = [
            kernel.planes(*slabs, dask_key_name=f"planes-{token}-{number}")
            for number, slabs in enumerate(zip(*blocks, strict=True))
        ]
    arrays = [
        da.from_delayed(
            task, (passes.n_fields, high - low, *passes.pencil.plane), dtype=passes.spectral, name=f"slab-{task.key}"
        )
        for task, (low, high) in zip(tasks, spans, strict=True)
    ]
    return da.concatenate(arrays, axis=1)


def _slabs_of(array: Any, sizes: Sequence[int], n_spatial: int) -> list[Any]:
    """Delayed slabs of whole planes of an array that is not stored."""
    lazy = da.asarray(array)
    lazy = lazy.rechunk(dict.fromkeys(range(1, lazy.ndim), -1) | {0: tuple(sizes) if n_spatial > 1 else -1})
    return list(lazy.to_delayed(optimize_graph=False).ravel())


def _spans(
    kernel: Callable[..., Array],
    size: int,
    n: int,
    url: str,
    *,
    name: str,
    axis: int,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    arguments: tuple[Any, ...] = (),
) -> da.Array:
    """A pass over spans of an axis of what an earlier pass has written."""
    task = dask.delayed(kernel, name=f"{name}-kernel")
    arrays = []
    for number, (low, high) in enumerate(_cut(n, size)):
        part = task((low, high), _Opening(url), *arguments, dask_key_name=f"{name}-{number}")
        whole = n == 1 and axis == 0
        extent = shape if whole else (*shape[:axis], high - low, *shape[axis + 1 :])
        arrays.append(da.from_delayed(part, extent, dtype=dtype, name=f"{name}-part-{number}"))
    return arrays[0] if len(arrays) == 1 else da.concatenate(arrays, axis=axis)


def _cut(n: int, size: int) -> list[Span]:
    return [(low, min(low + size, n)) for low in range(0, n, size)]
