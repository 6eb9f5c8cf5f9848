"""Files of raw voxels that are packed as one stream are read slab by slab, in any order and by any thread."""

import bz2
import gzip
import tracemalloc
import zlib

import dask
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mksdask.importers import import_images
from mksdask.importers.formats import packed_files
from mksdask.importers.formats.packed_files import Packed
from mksdask.importers.image_files import open_source

V = np.random.default_rng(0).integers(0, 99, (64, 50, 60), dtype="u1")
CONTENT = V.tobytes()
PACKERS = {"gzip": gzip.compress, "bzip2": bz2.compress, "zlib": zlib.compress}


@pytest.fixture(autouse=True)
def no_streams(monkeypatch):
    monkeypatch.setattr(packed_files, "_STREAMS", packed_files._Streams())
    monkeypatch.setattr(packed_files, "PIECE", 1000)
    monkeypatch.setattr(packed_files, "MOST_UNPACKED", 777)


def packed(path, packer, content=CONTENT, shape=V.shape, before=b"head"):
    path.write_bytes(before + PACKERS[packer](content))
    return Packed(path, shape, "|u1", len(before), packer=packer)


@pytest.mark.parametrize("packer", PACKERS)
def test_packed__rows_in_any_order(tmp_path, packer):
    read = packed(tmp_path / "a", packer)
    for first, last in ((0, 3), (3, 9), (40, 64), (5, 6), (9, 64), (0, 64)):
        assert_array_equal(read(first, last), V[first:last])
    assert_array_equal(read.of_first(7)(2, 11), V[7, 2:11])
    assert_array_equal(read.of_first(63)(0, 50), V[63])


@pytest.mark.parametrize("packer", PACKERS)
def test_packed__rows_in_order_are_unpacked_once(tmp_path, packer, monkeypatch):
    read, n_bytes = packed(tmp_path / "a", packer), []
    piece = packed_files._Stream._piece
    monkeypatch.setattr(
        packed_files._Stream, "_piece", lambda *args: n_bytes.append(len(found := piece(*args))) or found
    )
    for row in range(64):
        assert_array_equal(read(row, row + 1), V[row : row + 1])
    assert sum(n_bytes) == V.size


@pytest.mark.parametrize("packer", PACKERS)
def test_packed__damaged_streams_are_refused(tmp_path, packer):
    with pytest.raises(
        ValueError,
        match=r"holds 191999 bytes when it is unpacked, but 60 × 50 × 64 values are 192000 bytes; it is damaged",
    ):
        packed(tmp_path / "a", packer, CONTENT[:-1])(60, 64)
    with pytest.raises(ValueError, match="holds more than 192000 bytes when it is unpacked"):
        packed(tmp_path / "b", packer, CONTENT + b"a")(60, 64)
    whole = packed(tmp_path / "c", packer)
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:-400])
    with pytest.raises(ValueError, match="it is damaged"):
        whole(60, 64)
    with pytest.raises(ValueError, match="which cannot be the 1000000 × 1000000 × 1000000 values; a remedy"):
        packed(tmp_path / "d", packer, shape=(10**6,) * 3).check_size("a remedy")


def test_packed__streams_of_a_changed_file_are_not_used(tmp_path):
    read = packed(tmp_path / "a", "gzip")
    assert_array_equal(read(0, 3), V[:3])
    packed(tmp_path / "a", "gzip", (V + 1).tobytes() + b"a", before=b"head")
    assert_array_equal(read(3, 6), V[3:6] + 1)


@pytest.mark.parametrize("packer", ["gzip", "bzip2"])
def test_packed__streams_that_follow_each_other(tmp_path, packer):
    parts = [PACKERS[packer](CONTENT[first : first + 40000]) for first in range(0, len(CONTENT), 40000)]
    (tmp_path / "a").write_bytes(b"".join(parts) + bytes(50))
    assert_array_equal(Packed(tmp_path / "a", V.shape, "|u1", packer=packer)(0, 64), V)


def big_mha(path, content):
    path.write_bytes(
        b"NDims = 3\nDimSize = 128 128 256\nElementType = MET_UCHAR\nBinaryData = True\nCompressedData = True\n"
        b"ElementDataFile = LOCAL\n" + zlib.compress(content)
    )


def big_nrrd(path, content, encoding="gzip"):
    head = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 128 128 256\nencoding: {encoding}\n\n"
    packed = " ".join(map(str, content)).encode() if encoding == "ascii" else PACKERS[encoding](content)
    path.write_bytes(head.encode() + packed)


def big_nifti(path, content):
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed (extra: nifti)")
    values = np.frombuffer(content, "u1").reshape(256, 128, 128).T
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.mha", big_mha),
        ("a.nrrd", big_nrrd),
        ("c.nrrd", lambda path, content: big_nrrd(path, content, "ascii")),
        ("a.nii.gz", big_nifti),
    ],
)
def test_packed__memory_does_not_grow_with_the_file(tmp_path, name, write, monkeypatch):
    monkeypatch.setattr("mksdask.importers.sources.SLAB_BYTES", 2**17)
    monkeypatch.setattr("mksdask.importers.formats.vtk_values.SCAN_BYTES", 2**15)
    monkeypatch.setattr(packed_files, "PIECE", 2**13)
    monkeypatch.setattr(packed_files, "MOST_UNPACKED", 2**13)
    voxels = np.random.default_rng(0).integers(0, 99, 2**22, dtype="u1")
    write(tmp_path / name, voxels.tobytes())

    def total():
        return int(open_source(tmp_path / name).data.sum(dtype="i8").compute(scheduler="single-threaded"))

    # What is imported at the first call stays in memory.
    assert total() == voxels.sum(dtype="i8")
    tracemalloc.start()
    total()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6


def test_packed__imported_by_several_threads(tmp_path, monkeypatch):
    monkeypatch.setattr("mksdask.importers.sources.SLAB_BYTES", 2**14)
    head = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 60 50 64\nencoding: gzip\n\n"
    (tmp_path / "a.nrrd").write_bytes(head.encode() + gzip.compress(CONTENT))
    with dask.config.set(scheduler="threads", num_workers=4):
        assert_array_equal(import_images(tmp_path / "a.nrrd", tmp_path / "a.zarr").microstructure, V.T)
