"""A question to be answered before the output of the next cell is opened."""

import html

import ipywidgets

from folovllm.course.predictions.all_predictions import find_prediction
from folovllm.course.predictions.prediction import Prediction
from folovllm.course.widgets.widget import CourseWidget
from folovllm.language import N_, _, sentences


class Predict(CourseWidget):
    """A button per choice; whoever picks one is told what speaks for it or against it, and may then pick another."""

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction
        question = ipywidgets.HTML(sentences(f"<b>{_('Predict.')}</b>", html.escape(_(prediction.question))))
        self.buttons = {choice: _button(prediction.words_of(choice)) for choice in prediction.choices}
        for choice, button in self.buttons.items():
            button.on_click(lambda _, choice=choice: self.pick(choice))
        row = ipywidgets.HBox(list(self.buttons.values()), layout=ipywidgets.Layout(flex_flow="row wrap"))
        self.answer = ipywidgets.HTML(f"<i>{_(_WAITING)}</i>")
        super().__init__([question, row, self.answer])

    def pick(self, choice: str) -> None:
        """Answer to a choice."""
        for each, button in self.buttons.items():
            button.icon = "dot-circle-o" if each == choice else "circle-o"
        chosen, answer = (html.escape(each(choice)) for each in (self.prediction.words_of, self.prediction.answer_to))
        self.answer.value = f'<span role="status"><b>{chosen}</b> {answer} <i>{_(_OPEN)}</i></span>'

    def summary(self) -> str:
        """Return the question and its choices, without an answer."""
        choices = "\n".join(f"  ( ) {self.prediction.words_of(choice)}" for choice in self.prediction.choices)
        return f"{sentences(_('Predict.'), _(self.prediction.question))}\n{choices}"


_WAITING = N_("Pick one, before you run the next cell or open its output.")
# JupyterLab opens a folded output when its cell is run.
_OPEN = N_("Now run the next cell, or click the three dots under it, to see its output.")


def _button(words: str) -> ipywidgets.Button:
    layout = ipywidgets.Layout(width="auto", max_width="100%", height="auto", min_height="28px")
    return ipywidgets.Button(description=words, icon="circle-o", layout=layout)


def predict(name: str) -> Predict:
    """Show the prediction of that name."""
    return Predict(find_prediction(name))
