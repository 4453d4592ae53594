"""Sphinx: `sphinx-build -W docs build/docs`, with the extra "docs" installed."""

import base64
import io
import re
import sys
from html import escape
from pathlib import Path

import matplotlib
from docutils import nodes
from matplotlib import font_manager, mathtext

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
matplotlib.use("Agg")

import kernelfit  # noqa: E402

project = "kernelfit"
copyright = "kernelfit developers"  # noqa: A001
release = version = kernelfit.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "matplotlib.sphinxext.plot_directive",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["examples", "templates", "*.png"]
templates_path = ["templates"]
default_role = "py:obj"
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True}
autosummary_imported_members = True
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
plot_html_show_source_link = False
plot_html_show_formats = False
plot_formats = [("png", 110)]
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "reference_url": {},
    "abort_on_example_error": True,
    "within_subsection_order": "FileNameSortKey",
    "show_signature": False,
    "default_thumb_file": str(Path(__file__).parent / "overview.png"),
}
html_theme = "pydata_sphinx_theme"
html_title = "kernelfit"
html_theme_options = {"show_prev_next": False, "navbar_align": "left", "secondary_sidebar_items": ["page-toc"]}
html_sidebars = {"index": [], "start": []}  # no pages are below them
html_show_sourcelink = False

# Formulas are drawn by matplotlib, so that the pages need no network; they are inverted where the page is dark.
html_math_renderer = "mathtext"
html_static_path = ["style.css"]
html_css_files = ["style.css"]


def draw_formula(tex, size):
    """Return a formula as an image that holds itself."""
    data = io.BytesIO()
    font = font_manager.FontProperties(family="serif", size=size, math_fontfamily="cm")
    depth = mathtext.math_to_image(f"${' '.join(tex.split())}$", data, prop=font, dpi=96, format="svg")
    coded = base64.b64encode(data.getvalue()).decode()
    style = f"vertical-align:{-depth:.1f}pt"
    return f'<img class="formula" style="{style}" alt="{escape(tex)}" src="data:image/svg+xml;base64,{coded}">'


def inline(self, node):
    self.body.append(draw_formula(node.astext(), 12))
    raise nodes.SkipNode


def block(self, node):
    self.body.append(f'<p class="formula">{draw_formula(node.astext(), 13)}</p>')
    raise nodes.SkipNode


def of_scikit_learn(app, what, name, *_):
    """Leave out methods that scikit-learn adds, whose words lead to its own pages."""
    return True if re.fullmatch("set_.*_request", name) else None


def setup(app):
    app.connect("autodoc-skip-member", of_scikit_learn)
    app.add_html_math_renderer("mathtext", (inline, None), (block, None))
