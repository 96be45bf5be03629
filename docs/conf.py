"""Configuration of the documentation, built with ``make docs``."""

import re
from importlib.metadata import version as installed_version
from pathlib import Path

project = "skdebias"
author = "The skdebias developers"
copyright = "The skdebias developers"
release = installed_version("skdebias")
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "myst_parser",
    "numpydoc",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
default_role = "literal"  # docstrings write `name`, as scikit-learn's do
highlight_language = "python"

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc sections carry the types
numpydoc_show_class_members = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "skdebias"
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False}

# The gallery holds the scripts that need no data: `plot_*.py`.
extensions.append("sphinx_gallery.gen_gallery")
sphinx_gallery_conf = {
    "examples_dirs": str(Path(__file__).parent.parent / "examples"),
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"plot_.*\.py",
    "ignore_pattern": r"(^|/)(?!plot_)[^/]*\.py$",
    "nested_sections": False,
    "show_memory": False,
}


# What docstrings that are inherited from scikit-learn refer to.
_SKLEARN_LABELS = (
    "metadata_routing",
    "df_output_transform",
    r"sphx_glr_auto_examples_miscellaneous_plot_set_output\.py",
)


def _mend(app, what, name, obj, options, lines):
    """Mend what is no link here.

    ``(n_features_in_,)`` reads like one, and methods that are inherited from
    scikit-learn refer to its own user guide. Those of PyTorch are not all valid
    reStructuredText, so only their first line is kept.
    """
    if (getattr(obj, "__module__", None) or "").startswith("torch."):
        del lines[1:]
    lines[:] = [re.sub(r"\((\w+_),\)", r"(``\1``,)", line) for line in lines]
    guide = rf":ref:`(?:[^<`]*<)?(?:{'|'.join(_SKLEARN_LABELS)})>?`"
    lines[:] = [re.sub(guide, "scikit-learn's user guide", line) for line in lines]


def setup(app):
    # Before numpydoc, which turns the docstring into reStructuredText.
    app.connect("autodoc-process-docstring", _mend, priority=400)
