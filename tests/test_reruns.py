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


def test_cells_run_in_both_languages_and_those_from_the_middle_again():
    english, chinese = (edition(each, f'use_language("{each}")', "a", "b", "c") for each in ("en", "zh"))
    rerun = with_reruns(english, chinese)
    runs = [cell for cell in rerun.cells if not cell.source.startswith(SPEAK)]
    assert [cell.outputs[0].text for cell in runs] == [
        *('use_language("en") in en', 'use_language("zh") in zh', "a in en", "a in zh"),
        *("b in en", "b in zh", "c in en", "c in zh"),
        *("b in en", "c in en"),
    ]
    spoken = [cell.source.removeprefix(SPEAK) for cell in rerun.cells if cell.source.startswith(SPEAK)]
    assert spoken == ['use_language("zh")', 'use_language("en")'] * 4
    nbformat.validate(rerun)


@pytest.mark.parametrize("cells", [("a", "b = 2"), ("a",), ("a", "b", "c")])
def test_an_edition_with_other_code_is_refused(cells):
    with pytest.raises(ValueError, match=r"other code|argument"):
        with_reruns(edition("en", "a", "b"), edition("zh", *cells))


def test_every_notebook_of_ours_can_be_rerun():
    for path in sorted(Path("notebooks").glob("*.ipynb")):
        editions = (nbformat.read(each, as_version=4) for each in (path, Path("notebooks/zh", path.name)))
        assert with_reruns(*editions).cells
