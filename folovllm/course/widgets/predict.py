"""A question to be answered before the output of the next cell is opened."""

import html

import ipywidgets

from folovllm.course.predictions.all_predictions import find_prediction
from folovllm.course.predictions.prediction import Prediction
from folovllm.course.widgets.widget import CourseWidget


class Predict(CourseWidget):
    """A button per choice; whoever picks one is told what speaks for it or against it, and may then pick another."""

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction
        question = ipywidgets.HTML(f"<b>Predict.</b> {html.escape(prediction.question)}")
        self.buttons = {choice: _button(choice) for choice in prediction.choices}
        for choice, button in self.buttons.items():
            button.on_click(lambda _, choice=choice: self.pick(choice))
        row = ipywidgets.HBox(list(self.buttons.values()), layout=ipywidgets.Layout(flex_flow="row wrap"))
        self.answer = ipywidgets.HTML(_WAITING)
        super().__init__([question, row, self.answer])

    def pick(self, choice: str) -> None:
        """Answer to a choice."""
        for each, button in self.buttons.items():
            button.icon = "dot-circle-o" if each == choice else "circle-o"
        answer = html.escape(self.prediction.answer_to(choice))
        self.answer.value = f'<span role="status"><b>{html.escape(choice)}</b> {answer} {_OPEN}</span>'

    def summary(self) -> str:
        """Return the question and its choices, without an answer."""
        choices = "\n".join(f"  ( ) {choice}" for choice in self.prediction.choices)
        return f"Predict. {self.prediction.question}\n{choices}"


_WAITING = "<i>Pick one, before you run the next cell or open its output.</i>"
# JupyterLab opens a folded output when its cell is run.
_OPEN = "<i>Now run the next cell, or click the three dots under it, to see its output.</i>"


def _button(choice: str) -> ipywidgets.Button:
    layout = ipywidgets.Layout(width="auto", max_width="100%", height="auto", min_height="28px")
    return ipywidgets.Button(description=choice, icon="circle-o", layout=layout)


def predict(name: str) -> Predict:
    """Show the prediction of that name."""
    return Predict(find_prediction(name))
