"""Settings of the pages: `sphinx-build -W --keep-going .github/docs site`."""

import re
from pathlib import Path

from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from sphinx_gallery.scrapers import figure_rst

import mksdask

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STAGED = HERE / "_examples"
FIGURES = HERE / "_figures"

project = "mksdask"
author = "mksdask developers"
copyright = author  # noqa: A001
version = release = mksdask.__version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_*", "gallery/**/*.ipynb", "sg_execution_times.rst", "gallery/sg_execution_times.rst"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]
default_role = "py:obj"
smartquotes = False  # options begin with two hyphens
add_module_names = False
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"
templates_path = ["_templates"]
numpydoc_show_class_members = False
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "pydata_sphinx_theme"
html_title = f"mksdask {version}"
html_show_sourcelink = False
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_context = {"default_mode": "auto"}
html_sidebars = {page: [] for page in ("index", "start", "command", "pymks", "sources", "benchmarks", "changes")}
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": True,
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "pygments_light_style": "tango",
    "footer_start": ["copyright"],
    "footer_end": [],
}

# Title of each example, and how the pages show it: its arguments, or why it is not run.
QUICK = ("--quick",)
EXAMPLES = {
    "overview": ("From images to a property", QUICK),
    "effective_stiffness": ("Effective stiffness", QUICK),
    "local_strain": ("Local strain", QUICK),
    "classify_micrographs": ("Which material is it?", QUICK),
    "high_contrast": ("Local strain at high contrast", QUICK),
    "plastic_localization": ("Local strain of plastic phases", QUICK),
    "two_scales": ("From the fine scale to the coarse one", QUICK),
    "bounded_linkage": ("A linkage that keeps the bounds", QUICK),
    "cahn_hilliard": ("Spinodal decomposition", QUICK),
    "process_structure": ("From process to structure", QUICK),
    "reconstruction": ("Structures of given statistics", QUICK),
    "polycrystal_strain": ("Local strain of copper", QUICK),
    "texture": ("Texture of a wire", QUICK),
    "morphology": ("What a pore space holds", QUICK),
    "polycrystal_stiffness": ("Stiffness of textured copper", QUICK),
    "huge_volume": (
        "A volume larger than memory",
        (
            "It starts a cluster, and writes a volume that is larger than memory. With ``--size 2048`` it takes two "
            "minutes on two cores, once the volume is written."
        ),
    ),
    "linkage_out_of_core": (
        "A linkage of 20,000 samples",
        "It starts a cluster, and takes nine minutes on two cores, finite elements included.",
    ),
    "real_sandstone": ("Stiffness of real sandstone", "It needs a tomogram, which does not come with the package."),
    "local_strain_3d": ("Local strain in real rock", "It needs a tomogram, which does not come with the package."),
    "ebsd_texture": ("Texture of an EBSD map", "It needs an EBSD map, which does not come with the package."),
}
RUN = [name for name, (_, how) in EXAMPLES.items() if how is QUICK]


def stage_examples():
    """Copy the examples, with the comment at their top as the title and the text that the gallery needs."""
    STAGED.mkdir(exist_ok=True)
    (STAGED / "README.rst").write_text(GALLERY, encoding="utf-8")
    for name, (title, how) in EXAMPLES.items():
        source = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
        head, _, code = source.partition("\n\n# %%\n")
        text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in head.splitlines()[1:])
        note = f"\n\n.. note:: The pages show this example without running it. {how}" if isinstance(how, str) else ""
        text = re.sub(r"\n\n    (python .*)", r"\n\n.. code-block:: sh\n\n    \1", text)
        # A text and the code below it are one cell of the gallery.
        code = re.sub(r"^# %% \[markdown\]\n((?:#.*\n)+)\n# %%\n", r"# %%\n\1\n", code, flags=re.MULTILINE)
        code = re.sub(r"^( +)# %%( \[markdown\])?\n", "", code, flags=re.MULTILINE)
        staged = f'r"""\n{title}\n{"=" * len(title)}\n\n{text}{note}\n"""\n\n{code}'
        path = STAGED / f"{name}.py"
        if not path.exists() or path.read_text(encoding="utf-8") != staged:
            path.write_text(staged, encoding="utf-8")
    for path in STAGED.glob("*.py"):
        if path.stem not in EXAMPLES:
            path.unlink()


GALLERY = """Gallery
=======

Each example is a script of ``examples/``. The pages run it at a small size, with ``--quick``, and show what it prints,
its figures and how long it took. Run it without ``--quick`` to get these results:

.. list-table::
   :header-rows: 1
   :widths: 1 2

   * - script
     - what it gives at its full size
   * - ``overview.py``
     - the picture on the first page
   * - ``effective_stiffness.py``
     - section 5.1 of the PyMKS paper, on true finite-element data
   * - ``local_strain.py``
     - section 5.2: local strain of a material of three phases, beside finite elements
   * - ``high_contrast.py [TIFF]``
     - error of the local strain by order of the series, for phases whose stiffness differs by a factor of up to 50
   * - ``plastic_localization.py``
     - the same for phases that yield and harden, at the load of the fit and at others, where the series fails
   * - ``two_scales.py``
     - stiffness and strain of 96³ voxels from a coarse cell of 6³, whose voxels have the stiffness that a linkage says
   * - ``bounded_linkage.py``
     - a linkage with and without the bounds of Voigt and Reuss, on unseen fractions and contrasts
   * - ``classify_micrographs.py FOLDER``
     - windows of micrographs of seven materials, classified from their statistics: 85 % of the windows of unseen parts
       are right, and 74 % from the volume fraction alone
   * - ``cahn_hilliard.py``
     - a long time step of the Cahn–Hilliard equation, learned from many runs and rolled forward
   * - ``process_structure.py``
     - how a structure will look after a time, from its scores now
   * - ``reconstruction.py``
     - structures for points among scores, and what 2-point statistics cannot tell
   * - ``polycrystal_strain.py``
     - local strain of textured copper beside finite elements, by number of harmonics
   * - ``polycrystal_stiffness.py``
     - all 21 stiffness components of copper polycrystals from their texture
   * - ``texture.py``
     - pole figures, orientation distribution and misorientations of a simulated wire, beside closed forms
   * - ``morphology.py``
     - clusters, pore sizes, local thickness and surfaces of a simulated pore space of 128³ voxels
   * - ``huge_volume.py --size 2048``
     - statistics of 8.6 billion voxels in two workers of 2 GiB, continued after it was killed
   * - ``linkage_out_of_core.py``
     - 20,000 samples of 64³ on two workers of 1 GiB, 300 simulations that the linkage asks for, and error bars for all
       others
   * - ``real_sandstone.py PATH.tif``
     - stiffness of sub-volumes of a real tomogram, tested on a part of the rock that training never saw
   * - ``local_strain_3d.py PATH.tif``
     - all strain components in 200³ voxels of a real tomogram, from kernels calibrated at 21³, 43³ and 85³
   * - ``ebsd_texture.py PATH``
     - how texture and grains vary over a real EBSD map

The folder ``examples/notebooks/`` holds five notebooks beside them: *start here*, *your own tomogram*, *localization*,
*polycrystals* and *on a cluster*. Each takes less than a minute.
"""


def arguments_of(_gallery_conf, script_vars):
    """Give an example the arguments of its test, and a folder for its figures."""
    name = Path(script_vars["src_file"]).stem
    return [*QUICK, "--out", str(FIGURES / name)]


class Pictures:
    """Show the pictures that an example has written since the last cell."""

    def __repr__(self):
        """Give a name that does not change, because the gallery compares its settings from build to build."""
        return "Pictures"

    def __call__(self, _block, block_vars, gallery_conf):
        """Copy new pictures to the gallery."""
        seen = block_vars["example_globals"].setdefault("__pictures__", set())
        folder = FIGURES / Path(block_vars["src_file"]).stem
        new = sorted(set(folder.glob("*.png")) - seen, key=lambda path: path.stat().st_mtime_ns)
        seen.update(new)
        shown = []
        for picture in new:
            place = Path(next(block_vars["image_path_iterator"]))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(picture.read_bytes())
            shown.append((str(place), picture.stem.replace("_", " ")))
        return figure_rst([path for path, _ in shown], gallery_conf["src_dir"], ", ".join(title for _, title in shown))


class Order:
    """Sorts the examples as the table lists them."""

    def __init__(self, _folder):
        pass

    def __call__(self, file):
        """Return the place of an example."""
        return list(EXAMPLES).index(Path(file).stem)


stage_examples()
sphinx_gallery_conf = {
    "examples_dirs": "_examples",
    "gallery_dirs": "gallery",
    "filename_pattern": rf"/({'|'.join(RUN)})\.py$",
    "reset_argv": arguments_of,
    "image_scrapers": (Pictures(),),
    "within_subsection_order": Order,
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "plot_gallery": "True",
}


def mathml(node, **options):
    """Write mathematics as MathML, which browsers draw by themselves."""
    # As a sign of its own, a prime stands right in any font.
    return convert(node.astext().replace("'", "′"), **options)


def visit_math(translator, node):
    """Write mathematics into a line of text."""
    translator.body.append(mathml(node))
    raise SkipNode


def visit_math_block(translator, node):
    """Write an equation in a line of its own."""
    translator.body.append(f'<div class="equation">{mathml(node, display="block")}</div>')
    raise SkipNode


# The star of *spatial, and the last line of n_components_.
SHAPE_SIGN = re.compile(r"(?<![\w*\\`])\*(?=[a-z]\w*[,)])|(?<=\w)_(?=[,)])")


def is_skipped(_app, _what, name, member, skip, _options):
    """Leave out methods that scikit-learn adds, which its own pages explain."""
    module = getattr(member, "__module__", "") or ""
    return True if module.startswith("sklearn") or re.fullmatch(r"set_\w+_request", name) else skip


def escape_shapes(_app, _what, _name, _member, _options, lines):
    """Keep the signs of shapes such as (n_components_, *spatial), which would be a link and an emphasis."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = line.split("``")
            parts[::2] = [SHAPE_SIGN.sub(r"\\\g<0>", part) for part in parts[::2]]
            lines[number] = "``".join(parts)


def mark_calls(_app, _context, lines):
    """Write the examples in the help of commands as code."""
    lines[:] = [re.sub(r"([|:] +)(mksdask .*)", r"\1``\2``", line) for line in lines]


def setup(app):
    """Teach the builder to write MathML, and to read docstrings and help as they are written."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("autodoc-skip-member", is_skipped)
    app.connect("autodoc-process-docstring", escape_shapes, priority=900)
    app.connect("sphinx-click-process-description", mark_calls)
