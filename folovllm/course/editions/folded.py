"""Outputs that answer a prediction stay folded where a notebook is exported, as JupyterLab folds them itself."""

import html
from typing import Any

from nbconvert.preprocessors import Preprocessor

from folovllm.course.editions.minutes import Cell
from folovllm.language import N_, _

_SUMMARY = N_("Predict first. Then open: what happened")


def is_folded(cell: Cell) -> bool:
    """Return whether JupyterLab hides a cell's outputs until they are asked for."""
    return bool(cell["metadata"].get("jupyter", {}).get("outputs_hidden"))


class FoldAnswers(Preprocessor):
    """For nbconvert: pictures keep their words, and outputs that answer a prediction are folded.

    nbconvert's own templates forget alt texts, and show what JupyterLab hides.
    """

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Change the outputs of one cell."""
        for output in cell.get("outputs", []):
            shown = _as_html(output)
            if shown is not None and is_folded(cell):
                shown = f"<details><summary>{_(_SUMMARY)}</summary>{shown}</details>"
            if shown is not None and (is_folded(cell) or "<img" in shown):
                _replace(output, shown)
        return cell, resources


def _as_html(output: Any) -> str | None:
    """Return a picture or a text as HTML; None for outputs that need more than that."""
    if output["output_type"] == "stream":
        return f"<pre>{html.escape(output['text'])}</pre>"
    data, metadata = output.get("data", {}), output.get("metadata", {}).get("image/png", {})
    if "image/png" in data:
        alt = html.escape(metadata.get("alt", ""), quote=True)
        source = f"data:image/png;base64,{''.join(data['image/png'].split())}"
        return f'<img alt="{alt}" style="max-width: 100%" width="{metadata.get("width", "")}" src="{source}">'
    if "text/html" in data:
        return str(data["text/html"])
    return f"<pre>{html.escape(data['text/plain'])}</pre>" if "text/plain" in data else None


def _replace(output: Any, shown: str) -> None:
    plain = output.get("text") or output.get("data", {}).get("text/plain", "")
    output.clear()
    output.update(output_type="display_data", metadata={}, data={"text/html": shown, "text/plain": plain})
