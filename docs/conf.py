"""Settings of Sphinx: sphinx-build -W docs docs/_build."""

import re

import reweight_jax

project = "reweight_jax"
author = "the reweight_jax authors"
version = release = reweight_jax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say shapes and dtypes


def setup(app):
    app.connect("source-read", link_files)


def link_files(app, name, source):
    """Makes downloads of links to Markdown outside docs/, which MyST takes for unknown pages."""
    source[0] = re.sub(r"\[([^\]]+)\]\((\.\./[^)]+\.md)\)", r"{download}`\1 <\2>`", source[0])
