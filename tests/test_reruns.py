"""``scripts/write_reruns.py``: the notebooks that ``make test-notebooks`` runs."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from scripts.write_reruns import with_reruns

SPEAK = "from folovllm.course import use_language\n"


def edition(language: str, *cells: str) -> nbformat.NotebookNode:
    """A notebook whose cells store what they are, and in which language."""
    printed = [new_output("stream", text=f"{cell} in {language}") for cell in cells]
    made = [new_code_cell(cell, outputs=[text]) for cell, text in zip(cells, printed, strict=True)]
    return new_notebook(cells=[new_markdown_cell(f"text in {language}"), *made])


def test_cells_run_in_both_languages_in_a_row_or_when_all_is_done():
    english, chinese = (edition(each, f'use_language("{each}")', "a", "b", "c", "d") for each in ("en", "zh"))
    rerun = with_reruns(english, chinese)
    runs = [cell.outputs[0].text if cell.outputs else cell.source.removeprefix(SPEAK) for cell in rerun.cells]
    to_chinese, to_english = 'use_language("zh")', 'use_language("en")'
    assert runs == [
        *(f"{to_english} in en", to_chinese, f"{to_chinese} in zh", to_english),
        *("a in en", to_chinese, "a in zh", to_english),
        *("b in en", "c in en", "d in en", to_chinese),
        *("b in zh", "c in zh", "d in zh"),
    ]
    nbformat.validate(rerun)


@pytest.mark.parametrize("cells", [("a", "b = 2"), ("a",), ("a", "b", "c")])
def test_an_edition_with_other_code_is_refused(cells):
    with pytest.raises(ValueError, match=r"other code|argument"):
        with_reruns(edition("en", "a", "b"), edition("zh", *cells))


def test_every_notebook_of_ours_can_be_rerun():
    for path in sorted(Path("notebooks").glob("*.ipynb")):
        editions = (nbformat.read(each, as_version=4) for each in (path, Path("notebooks/zh", path.name)))
        assert with_reruns(*editions).cells
