"""A widget: type a number, and see the bits in which three formats store it, and what is left of it."""

import re

import ipywidgets

from folovllm.course.number_bits import BitsDrawing, stored_as
from folovllm.course.padded_batch import DTYPES
from folovllm.course.style import LivePicture
from folovllm.course.widgets.widget import PictureWidget
from folovllm.language import _, clauses

_BETWEEN_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
"""Only such commas are left out: a decimal comma, as in 1,5, is no number in Python."""


class NumberBits(PictureWidget):
    """A box for a number, and its bits in float32, bfloat16 and float16.

    number: what is shown first.
    """

    def __init__(self, number: float = 5.0) -> None:
        self.number = ipywidgets.Text(value=f"{number:g}", description=_("number"), continuous_update=False)
        self._drawing = BitsDrawing()
        self._picture = LivePicture(self._drawing.figure, self._drawing.moving)
        self._picture.keep_background()
        self._alt = ""
        self.number.observe(lambda _: self.read_number(), "value")
        super().__init__([self.number])
        self.read_number()

    def read_number(self) -> None:
        """Show the number of the box; where there is none, say so and show no picture."""
        try:
            number = float(_BETWEEN_THOUSANDS.sub("", self.number.value))
        except ValueError:
            self.say(_("{value!r} is no number. Type one, such as 0.1, -3 or 1e-8.").format(value=self.number.value))
            self.picture.value = ""
            return
        self._alt = self._drawing.write(number)
        self.show(_sentence(number), self._picture.redraw())

    def summary(self) -> str:
        """Say what the widget shows."""
        return _("NumberBits. {_alt}").format(_alt=self._alt)


def _sentence(number: float) -> str:
    """State what each format makes of a number."""
    return clauses(
        _("{dtype} stores {stored_as:.9g}").format(dtype=dtype, stored_as=stored_as(number, dtype)) for dtype in DTYPES
    )
