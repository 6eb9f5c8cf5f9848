"""The commands, with their arguments, options and help. What they do stands in the other modules."""

from __future__ import annotations

from pathlib import Path

import click

from mksdask.cli.arguments import Axes, Crop, LocalFile, Numbers, Phases, Place, Selection, Size
from mksdask.cli.declaring import (
    Group,
    cluster_options,
    command,
    json_option,
    links_option,
    map_options,
    memory_option,
    opening_options,
    overwrite_option,
    representative_option,
    resume_option,
    statistics_options,
    watch_option,
)


@click.group("plan", cls=Group)
def plan_group() -> None:
    """Show the tasks, the memory and the bytes that a call would need, without making the call.

    \b
    Examples:
      mksdask plan stats rock.zarr --cutoff 40 --memory-limit 1GiB
      mksdask plan fit samples.zarr --components 20
    """


@command("stores:import_command", "import")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("store", type=Place())
@click.option(
    "--phases",
    type=Phases(),
    help="Phase of each value in the image, such as 0:pore,255:grain. The word values stores the values unchanged.",
)
@click.option("--thresholds", type=Numbers(), help="Grey levels at which the next phase begins, such as 80,160.")
@click.option(
    "--otsu",
    type=click.IntRange(2, 6),
    help="Number of phases, such as 2. Otsu's method finds the thresholds between them.",
)
@click.option("--names", help="Names of the phases between thresholds, such as pore,grain.")
@click.option(
    "--spacing",
    type=Numbers(),
    help="Voxel size, such as 3, or sizes along x,y,z, such as 3,3,5. Default: as the file says.",
)
@click.option("--units", help="Unit of the spacing, such as um.")
@click.option("--crop", type=Crop(), help="Part of the image to import, such as x=0:200,z=50:.")
@click.option(
    "--window",
    type=Size(1),
    help="Cut the image into windows of this many voxels, such as 64 along each axis, or 64x64x32 along x, y and z. A "
    "remainder at the ends is left out.",
)
@click.option("--dataset", help="Name of the array, such as CellData/FeatureIds, if the file holds several.")
@click.option("--series", type=click.IntRange(min=0), help="Number of the series of pages, from 0, such as 1.")
@click.option("--channel", type=click.IntRange(min=0), help="Number of the channel, from 0, such as 1.")
@click.option("--time", type=click.IntRange(min=0), help="Number of the time, from 0, such as 1.")
@click.option("--axes", help="Order of the axes in the file, such as zyx. The letter s stands for samples.")
@click.option("--shape", type=Size(1), help="Voxels along x, y, z of a file of raw values, such as 1000x1000x1200.")
@click.option("--dtype", help="Data type of raw values, such as uint16.")
@click.option(
    "--order",
    "byte_order",
    type=click.Choice(["little", "big"]),
    help="Order of the bytes of raw values, such as big.",
)
@click.option("--offset", type=click.IntRange(min=0), help="Bytes before raw values, such as 512.")
@click.option("--pattern", help="Names of the files to take from a folder, such as 'slice*.tif'.")
@click.option(
    "--as",
    "join",
    type=click.Choice(["slices", "samples"]),
    default="slices",
    show_default=True,
    help="Whether several files, or pages without a name, are slices of one image or samples of an ensemble.",
)
@click.option("--follow-links", is_flag=True, help="Read values to which a file or a store links in other folders.")
@click.option("--periodic", type=Axes(), default="none", show_default=True, help="Periodic axes, such as x,y.")
@click.option("--allow-missing", is_flag=True, help="Take chunks that a zarr store lacks as its fill value.")
@map_options
@resume_option
@overwrite_option("an earlier store of a volume or an ensemble")
@cluster_options
@json_option
def import_command() -> None:
    """Import images into a store of one volume. With --window, import them into a store of an ensemble.

    An EBSD map of EDAX, Oxford, Bruker or orix is told by what its file holds, and stored as orientations.

    SOURCE is a TIFF stack, a folder or a pattern of TIFF, PNG or JPEG slices, or a file of NumPy, HDF5, DREAM.3D,
    netCDF, VTK, zarr, NRRD, MetaImage or NIfTI, or a file of raw values with --shape and --dtype. Several SOURCEs are
    slices of one image, in the order in which they are given, or with --as samples the samples of an ensemble. STORE is
    the zarr store to make. What the files do not say is assumed, and the command prints what.

    \b
    Examples:
      mksdask import scan.tif rock.zarr --phases 0:pore,255:grain --spacing 3 --units um
      mksdask import 'slices/*.png' rock.zarr --otsu 2 --names pore,grain
      mksdask import scan.h5 cells.zarr --dataset CellData/FeatureIds --window 64
      mksdask import scan.raw rock.zarr --shape 1000x1000x1200 --dtype uint16 --order little
      mksdask import map.ctf map.zarr
    """


@command("stores:info")
@click.argument("store", type=Place(exists=True))
@opening_options
@click.option(
    "--figure", type=LocalFile(), help="Draw the middle of the volume, or of some samples, into a file such as map.png."
)
@overwrite_option("an earlier figure")
@click.option("--fractions", is_flag=True, help="Compute the volume fractions of the phases, which reads all voxels.")
@representative_option
@json_option
def info() -> None:
    """Describe what a store holds: a volume, an ensemble, a model or a result.

    STORE is a path or a URL.

    \b
    Examples:
      mksdask info rock.zarr --fractions
      mksdask info rock.zarr --representative
      mksdask info map.zarr --figure map.png
      mksdask info zip://rock.zarr::rock.zip
    """


@command("stores:verify")
@click.argument("store", type=Place(exists=True))
@links_option
@cluster_options
@json_option
def verify() -> None:
    """Read all chunks of a store, compare them with their checksums, and list what is damaged.

    STORE holds an ensemble, a volume, a result or a model, or another program wrote it. The exit code is 1 if anything
    is damaged. Chunks that another program wrote without checksums are counted.

    Example: mksdask verify rock.zarr
    """


@command("repairs:repair")
@click.argument("store", type=Place(exists=True))
@opening_options
@cluster_options
@json_option
def repair() -> None:
    """Compute damaged blocks of a result again, from the inputs that it names, and write them into its store.

    STORE is a result of mksdask stats, predict or localize whose inputs still are what they were. A block is written
    only if it agrees with what is left of the stored one. Nothing else in the store is touched.

    Example: mksdask repair S2.zarr
    """


@command("exports:export_command", "export")
@click.argument("store", type=Place(exists=True))
@click.argument("out", type=Place())
@click.option("--variable", multiple=True, help="Variable of the store, such as phase. VTK files take several.")
@click.option("--select", type=Selection(), help="What is exported along some axes, such as sample=3,component=xx.")
@overwrite_option("a file of the same format, or an OME-Zarr image that this command made,")
@cluster_options
@json_option
def export_command() -> None:
    """Export a store into a file of another program.

    STORE holds an ensemble, a volume or a result. The suffix of OUT says the format: .zarr for OME-Zarr 0.5 (napari,
    Fiji), .vti or .vtkhdf for VTK (ParaView), .tif or .ome.tif for TIFF (ImageJ). Voxel sizes, units and names are
    kept.

    \b
    Examples:
      mksdask export rock.zarr rock.vti
      mksdask export rock.zarr rock.ome.zarr
      mksdask export S2.zarr S2.tif --select pair=pore–pore
    """


@command("reports:report")
@click.argument("store", type=Place(exists=True))
@click.argument("out", type=LocalFile())
@click.option(
    "--states", type=click.IntRange(min=1), help="Number of phases, such as 2, if the store does not name them."
)
@click.option("--title", help="Headline of the page, such as 'Sandstone 7'. Default: the name of the store.")
@click.option(
    "--cutoff",
    type=click.IntRange(min=1),
    help="Largest lag in voxels, such as 40. Default: a quarter of the shortest axis, at most 50.",
)
@opening_options
@overwrite_option("an earlier report")
@cluster_options
@json_option
def report() -> None:
    """Write what a store holds as one HTML page, for readers without Python.

    STORE is a volume or an ensemble of phases, and OUT is the page. It holds pictures, volume fractions, 2-point
    statistics, chord lengths, clusters, and how well the volume represents its material. All figures are inside the
    page. Clusters are counted in a central part that fits into memory.

    \b
    Examples:
      mksdask report rock.zarr rock.html
      mksdask report samples.zarr samples.html --title 'Sandstone 7'
    """


@command("analysis:stats")
@statistics_options
@click.argument("out", type=Place())
@click.option(
    "--figure",
    type=LocalFile(),
    help="Draw the statistics into a file, such as S2.png. For an ensemble, draw their mean.",
)
@click.option(
    "--radial",
    type=LocalFile(),
    help="Draw the statistics against distance, averaged over all directions, into a file, such as radial.png.",
)
@representative_option
@watch_option
@resume_option
@overwrite_option("an earlier result")
@cluster_options
@json_option
def stats() -> None:
    """Compute the 2-point statistics of a volume, or of each sample of an ensemble, and write them to a zarr store.

    STORE is a volume or an ensemble, as mksdask import writes them, and OUT is the zarr store of the statistics.

    \b
    Examples:
      mksdask stats rock.zarr S2.zarr --cutoff 40 --figure S2.png --representative
      mksdask stats samples.zarr f.zarr --pairs 0-0,0-1 --periodic x,y,z
      mksdask stats rock.zarr S2.zarr --cutoff 40,40,20 --scheduler scheduler.json
    """


@command("linkage:fit")
@statistics_options
@click.argument("model", type=Place())
@click.option(
    "--response",
    default="response",
    show_default=True,
    help="Response: a variable of the store, such as response, or a file of one row for each sample, such as "
    "strain.npy, or stiffness.csv with a header and a column for each property. A column named sample says to which "
    "sample a row belongs.",
)
@click.option(
    "--components",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Number of principal components, such as 8.",
)
@click.option(
    "--linker",
    type=click.Choice(["polynomial", "kernel"]),
    default="polynomial",
    show_default=True,
    help="Regression from scores to the response.",
)
@click.option("--degree", type=click.IntRange(min=1), help="Degree of the polynomial, such as 2. Default: 1.")
@click.option(
    "--order",
    type=click.IntRange(min=1),
    help="Highest order of the series of a localization model, such as 4 for phases that differ much. Default: 1.",
)
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 0.9),
    default=0.2,
    show_default=True,
    help="Fraction of the samples that only tests the fit, such as 0.25.",
)
@click.option(
    "--figure",
    type=LocalFile(),
    help="Draw predictions over responses into a file, such as fit.png.",
)
@watch_option
@resume_option
@overwrite_option("an earlier model")
@cluster_options
@json_option
def fit() -> None:
    """Fit a linkage from the samples of an ensemble to their response, and save it.

    STORE is an ensemble, and MODEL is the zarr store of the model. If the response has a few numbers for each sample,
    the linkage is a homogenization model. If it has a number for each voxel, the linkage is a localization model of
    influence kernels, with the --order that is asked for, and of the options for statistics only --states applies. Test
    samples are drawn with a fixed seed, and are not used in the fit.

    \b
    Examples:
      mksdask fit samples.zarr stiffness.model --components 8 --degree 2
      mksdask fit samples.zarr strain.model --response strain.npy --order 4
    """


@command("linkage:predict")
@click.argument("model", type=Place(exists=True))
@click.argument("store", type=Place(exists=True))
@click.argument("out", type=Place())
@opening_options
@click.option("--std", is_flag=True, help="Write the standard deviation of each prediction too.")
@resume_option
@overwrite_option("an earlier result")
@cluster_options
@json_option
def predict() -> None:
    """Predict the effective properties of the samples of an ensemble by a homogenization model.

    MODEL is a model that mksdask fit saved, and STORE is an ensemble. The predictions go to OUT, which is a .csv file
    or a .zarr store.

    \b
    Examples:
      mksdask predict stiffness.model other.zarr stiffness.csv --std
      mksdask predict stiffness.model other.zarr stiffness.zarr --resume
    """


@command("linkage:localize")
@click.argument("model", type=Place(exists=True))
@click.argument("store", type=Place(exists=True))
@click.argument("out", type=Place())
@opening_options
@resume_option
@overwrite_option("an earlier result")
@cluster_options
@json_option
def localize() -> None:
    """Predict the local field of each sample by a localization model, and write the fields to a zarr store.

    MODEL is a model that mksdask fit saved, STORE is an ensemble, and OUT is the zarr store of the fields. Influence
    kernels that were calibrated on samples of another size are resized to the size of these samples.

    \b
    Examples:
      mksdask localize strain.model large.zarr strain.zarr
      mksdask localize strain.model large.zarr strain.zarr --resume
    """


@command("demo:demo")
@click.option(
    "--out",
    type=LocalFile(),
    metavar="FOLDER",
    default=Path("mksdask-demo"),
    show_default=True,
    help="Folder for the ensemble and the figures, such as quick.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=40),
    default=480,
    show_default=True,
    help="Number of samples in the ensemble, such as 200.",
)
@click.option(
    "--size",
    type=Size(4),
    default="24x24x24",
    show_default=True,
    help="Voxels of a sample, such as 24x24x24, 64x64, or 24 for a cube.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the random microstructures, such as 3.",
)
@cluster_options
@resume_option
@overwrite_option("the ensemble and the figures in the folder --out")
def demo() -> None:
    """Run the whole chain: ensemble → 2-point statistics → PCA → regression → stiffness, and local fields.

    The demo writes two-phase microstructures of four grain shapes to zarr, together with their effective stiffness C11
    from finite elements. It fits a linkage to three quarters of them, and predicts the stiffness of the others, with
    its uncertainty. Then it calibrates influence kernels, and predicts the strain in each voxel of one more sample.

    Example: mksdask demo --samples 200 --size 32x32 --out quick
    """


@command("analysis:plan_stats", "stats")
@statistics_options
@memory_option
@json_option
def plan_stats() -> None:
    """Show what `mksdask stats` would need. STORE is a volume or an ensemble.

    Example: mksdask plan stats rock.zarr --cutoff 40 --memory-limit 1GiB
    """


@command("analysis:plan_fit", "fit")
@statistics_options
@click.option(
    "--components",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Number of principal components, such as 8.",
)
@memory_option
@json_option
def plan_fit() -> None:
    """Show what the statistics and components of `mksdask fit` would need. STORE is an ensemble.

    Example: mksdask plan fit samples.zarr --components 20
    """


for each in (plan_stats, plan_fit):
    plan_group.add_command(each)
COMMANDS = (
    demo,
    import_command,
    info,
    stats,
    fit,
    predict,
    localize,
    plan_group,
    report,
    export_command,
    verify,
    repair,
)
