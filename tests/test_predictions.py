"""A prediction is asked before its answer can be read, and what it calls right is what happens."""

import itertools
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter

from folovllm.course import predict
from folovllm.course.editions.folded import FoldAnswers, is_folded
from folovllm.course.predictions.all_predictions import CHAPTERS, find_prediction
from folovllm.course.predictions.prediction import Prediction
from folovllm.course.widgets.predict import Predict

NOTEBOOKS = sorted(Path("notebooks").glob("*.ipynb"))
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
ALL = [each for predictions in CHAPTERS.values() for each in predictions]
EACH_PREDICTION = pytest.mark.parametrize("prediction", ALL, ids=lambda each: each.name)
EXAMPLE = Prediction("seats", "How many steps?", {"12": "That is with 8 seats.", "96": "Yes: one by one."}, "96", "96")


def cells_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code_of(path):
    return [cell for cell in cells_of(path) if cell["cell_type"] == "code"]


def asked_by(cell):
    found = re.match(r'predict\("(\w+)"\)$', "".join(cell["source"]))
    return found and found[1]


def words_of(outputs):
    """What outputs say: printed text, results, and pictures' alt texts."""
    said = []
    for output in outputs:
        said += [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
        said.append(output.get("metadata", {}).get("image/png", {}).get("alt", ""))
    return "\n".join("".join(each) for each in said)


@EACH
def test_every_prediction_of_a_chapter_is_asked_once_and_answered_by_the_next_cell(path):
    cells = cells_of(path)
    asked = [asked_by(cell) for cell in cells if cell["cell_type"] == "code" and asked_by(cell)]
    assert sorted(asked) == sorted(each.name for each in CHAPTERS[path.stem])
    assert len(asked) >= (1 if path.stem == "00_start_here" else 4)
    for cell, following in itertools.pairwise(cells):
        if cell["cell_type"] == "code" and asked_by(cell):
            assert following["cell_type"] == "code"
            assert is_folded(following)
            assert find_prediction(asked_by(cell)).evidence in words_of(following["outputs"])
        elif following["cell_type"] == "code":
            assert not is_folded(following)


def test_no_two_predictions_have_one_name():
    assert len({each.name for each in ALL}) == len(ALL)
    with pytest.raises(ValueError, match=r"name must be one of .*, got 'nothing'"):
        find_prediction("nothing")


@EACH_PREDICTION
def test_a_prediction_is_plain_text_and_does_not_give_itself_away(prediction):
    texts = [prediction.question, *prediction.choices, *prediction.choices.values()]
    assert all(each.strip() == each and each for each in texts)
    assert not any(re.search(r"[`*]{1,2}\w+[`*]{1,2}", each) for each in texts)
    assert prediction.evidence
    assert prediction.choices[prediction.right] not in predict(prediction.name).summary()


def test_whoever_picks_is_told_and_may_pick_again():
    widget = Predict(EXAMPLE)
    assert widget.summary() == "Predict. How many steps?\n  ( ) 12\n  ( ) 96"
    assert "8 seats" not in widget.answer.value
    assert "one by one" not in widget.answer.value
    widget.buttons["12"].click()
    assert "✘ That is with 8 seats." in widget.answer.value
    assert [button.icon for button in widget.buttons.values()] == ["dot-circle-o", "circle-o"]
    widget.buttons["96"].click()
    assert "✔ Yes: one by one." in widget.answer.value
    assert "8 seats" not in widget.answer.value


def test_text_is_shown_as_it_is_and_never_as_markup():
    widget = Predict(Prediction("x", "a < b & c?", {"<b>": "x < y", "no": "z"}, "no", "e"))
    widget.buttons["<b>"].click()
    assert "a &lt; b &amp; c?" in widget.children[0].value
    assert "&lt;b&gt;" in widget.answer.value
    assert "x &lt; y" in widget.answer.value


@EACH
def test_in_an_exported_page_answers_are_folded_and_pictures_keep_their_words(path):
    exporter = HTMLExporter(preprocessors=[FoldAnswers])
    page, _ = exporter.from_notebook_node(nbformat.read(path, as_version=4))
    assert page.count("<summary>Predict first.") == sum(len(c["outputs"]) for c in code_of(path) if is_folded(c))
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) == sum("image/png" in o.get("data", {}) for c in code_of(path) for o in c["outputs"])
    assert all(re.search(r'alt="[^"]{10,}', image) for image in images)


def test_jupyterlab_started_by_make_lab_exports_so():
    config = json.loads(Path("jupyter/jupyter_nbconvert_config.json").read_text("utf-8"))
    module, _, name = config["HTMLExporter"]["preprocessors"][0].rpartition(".")
    assert (module, name) == (FoldAnswers.__module__, FoldAnswers.__name__)
