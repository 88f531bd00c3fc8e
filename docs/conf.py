"""Configuration of the documentation site: `make docs` builds it into docs/_build."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.errors import ExtensionError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's packages, not installed ones

project = "hybrid-icbs"
author = "The hybrid-icbs developers"
copyright = author
release = version = installed_version("hybrid-icbs")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery/*.ipynb", "gallery/*.py", "gallery/*.md5"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
default_role = "py:obj"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
doctest_global_setup = "import warnings; warnings.simplefilter('error')"
doctest_test_doctest_blocks = ""  # docstrings' examples are run by pytest; here run those of the pages (see `pycon`)

# Examples that take longer, or that write a folder, are shown and not run.
RUN = ("prune_classifier", "ask_tell_by_hand", "bring_your_own_solver")
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": f"/({'|'.join(RUN)})",
    "download_all_examples": False,
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "show_memory": False,
    "write_computation_times": False,  # its page loads scripts from other hosts
    "show_signature": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "hybrid-icbs"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_sidebars = {page: [] for page in ("index", "benchmarks", "ROADMAP")}
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}


def settings_page() -> str:
    """The page of the settings; a test holds that the committed file is this text."""
    from hybrid_icbs.config import settings_table

    table = re.sub(r"^\*\*(.*)\*\*$", r"## \1", settings_table(), flags=re.MULTILINE)
    return f"""# Settings

The keywords of `prune` and the fields of `Config`. On the command line each is a flag (`block_size` is `--block-size`),
except `backend_options`: the command line writes these into the backend, `--backend "sa?restarts=4"`. Files of settings
(TOML or JSON) use the keywords. `sparsity` (1 - density) can replace `density`. `make docs` writes this page from the
code.

{table.rstrip()}
"""


def write_settings_page(app):  # type: ignore[no-untyped-def]
    """Write the page of the settings, if it differs."""
    page = Path(app.srcdir) / "reference" / "settings.md"
    if not page.exists() or page.read_text("utf-8") != settings_page():
        page.write_text(settings_page(), "utf-8")


def escape_prose(app, what, name, obj, options, lines):  # type: ignore[no-untyped-def]
    """Docstrings are prose: outside backquotes, `|` and `*` stand for themselves, not for markup."""
    literal = False
    for number, line in enumerate(lines):
        if line.strip() and not line.startswith(" "):
            literal = False
        if not literal:
            parts = re.split(r"(`+[^`]*`+)", line)
            parts[::2] = [re.sub(r"(?<!\\)([|*])", r"\\\1", part) for part in parts[::2]]
            lines[number] = "".join(parts)
        if line.rstrip().endswith("::"):
            literal = True


def test_console_blocks(app, doctree):  # type: ignore[no-untyped-def]
    """Let the doctest builder run the pages' blocks of the language pycon."""
    for block in doctree.findall(nodes.literal_block):
        if block.get("language") == "pycon":
            block["testnodetype"] = "doctest"
            block["groups"] = ["default"]


def link_gallery(app, doctree):  # type: ignore[no-untyped-def]
    """Links to the files of examples, which a forge shows, lead to their pages in the gallery."""
    for link in list(doctree.findall(addnodes.download_reference)):
        if match := re.fullmatch(r"\.\./examples/(\w+)\.py", link["reftarget"]):
            page = nodes.reference("", link.astext(), refuri=f"gallery/{match[1]}.html", internal=True)
            link.replace_self(page)


def refuse_remote_resources(app, exception):  # type: ignore[no-untyped-def]
    """Fail if a page loads a script, style, font or image from another host: the site works offline."""
    if exception is not None or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text("utf-8"))
        for tag in tags:
            if re.search(r"""(?:src|href)=["'](?:https?:)?//""", tag):
                raise ExtensionError(f"{page.name} loads from another host: {tag}")


def setup(app):  # type: ignore[no-untyped-def]
    app.connect("builder-inited", write_settings_page)
    app.connect("autodoc-process-docstring", escape_prose)
    app.connect("doctree-read", test_console_blocks)
    app.connect("doctree-read", link_gallery)
    app.connect("build-finished", refuse_remote_resources)
