"""Google Colab shows no widgets of ipywidgets 8 by itself: its manager of further widgets has to be switched on."""

import sys
from importlib import import_module
from typing import Any

from IPython.display import publish_display_data


def on_colab() -> bool:
    """Return whether this is a kernel of Google Colab, which has imported its own package before any cell is run."""
    return "google.colab" in sys.modules


def show_on_colab(data: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Show a widget's bundle by a message of its own; to a cell's result Colab does not add who manages it.

    See github.com/googlecolab/colabtools/issues/498 and github.com/manzt/anywidget/issues/63.
    """
    import_module("google.colab.output").enable_custom_widget_manager()
    publish_display_data(data, metadata)  # type: ignore[no-untyped-call]
