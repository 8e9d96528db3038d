"""Run notebooks from top to bottom and store their outputs, in the form in which they are committed.

    python scripts/execute_notebooks.py notebooks/00_start_here.ipynb ...

Nothing is stored unless every cell of a notebook ran. What differs from run to run without meaning
anything (execution times, widget state) is left out, so that a second run
changes nothing.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def execute(path: Path) -> None:
    """Run one notebook and write it back."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": path.parent}})
    client.startup_timeout = 300
    client.record_timing = False
    client.coalesce_streams = True
    client.store_widget_state = False
    client.execute()
    notebook.metadata = {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit("usage: python scripts/execute_notebooks.py NOTEBOOK ...")
    for name in sys.argv[1:]:
        execute(Path(name))
        print(f"{name}: executed")
