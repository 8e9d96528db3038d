"""What Sphinx is told; ``site/build_site.py`` adds the language and the folders."""

from book import run_links

project = "FoloVLLM"
author = "the FoloVLLM authors"
copyright = "the FoloVLLM authors. Licence: Apache-2.0"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "book.chinese_search",
    "book.docstrings",
    "book.links",
]
templates_path = ["templates"]
html_css_files = ["book.css"]
html_js_files = [
    "local-search.js",
    *(f"explorers/{name}.js" for name in ("explorer", "prompt", "sampling", "budget", "frames", "steps")),
]
html_theme = "pydata_sphinx_theme"
html_title = "FoloVLLM"
html_favicon = "static/icon.svg"  # a page without one asks the server's top for it
html_context = {"default_mode": "auto"}
html_sidebars = {"**": ["chapters"]}
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False

# Nothing is executed, and nothing is fetched from another host: no require.js, no widgets' manager.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_merge_streams = True
myst_enable_extensions = ["attrs_block", "colon_fence"]
myst_heading_anchors = 3
# Notebooks' headings begin where their own story does.
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
viewcode_follow_imported_members = False
python_display_short_literal_types = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme_options = {
    "logo": {"text": "FoloVLLM"},
    "navbar_start": ["navbar-logo"],
    "navbar_center": [],
    "navbar_end": ["language-switch", "theme-switcher"],
    "navbar_align": "right",
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "icon_links": run_links.icons(),
    "back_to_top_button": False,  # it would lie over the explorers
}
