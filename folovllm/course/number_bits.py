"""The bits in which a number is stored, as a drawing that chapter 04b and its widget share."""

from typing import Any

import torch
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from folovllm.course.padded_batch import DTYPES
from folovllm.course.style import BLUE, GREY, ORANGE, new_figure
from folovllm.language import N_, _, clauses

_EXPONENT_BITS = {"float32": 8, "bfloat16": 8, "float16": 5}
_PARTS = {N_("sign"): (GREY, ""), N_("exponent"): (ORANGE, "///"), N_("mantissa"): (BLUE, "...")}


def stored_as(number: float, dtype: str) -> float:
    """Return what is left of a number when it is stored."""
    return float(torch.tensor(number, dtype=torch.float64).to(getattr(torch, dtype)))


def bits_of(number: float, dtype: str) -> str:
    """Return the bits in which a number is stored, sign first: 32 or 16 digits."""
    stored = torch.tensor(number, dtype=torch.float64).to(getattr(torch, dtype))
    width = 8 * stored.itemsize
    whole = stored.view(torch.int32 if width == 32 else torch.int16).item()
    return f"{int(whole) % 2**width:0{width}b}"


class BitsDrawing:
    """The bits of one number in three formats as boxes, and which number they mean; the boxes stay, the digits change.

    moving: the artists that a new number changes.
    """

    def __init__(self) -> None:
        self.figure, self._axes = new_figure(10, 3.4)
        self._digits = {dtype: self._make_row(row, dtype) for row, dtype in enumerate(DTYPES)}
        self._meanings = {
            dtype: self._axes.text(len(row) + 0.4, i + 0.49, "", va="center", fontsize=13, fontweight="bold")
            for i, (dtype, row) in enumerate(self._digits.items())
        }
        self.moving = [*(text for row in self._digits.values() for text in row), *self._meanings.values()]
        self._axes.set_yticks([0.5, 1.5, 2.5], DTYPES, fontsize=13)
        self._axes.tick_params(length=0)
        self._axes.spines[["left", "bottom"]].set_visible(False)
        self._axes.set(xlim=(-0.2, 40), ylim=(3.05, -0.1), xticks=[])
        handles = [
            Rectangle((0, 0), 1, 1, facecolor=color, edgecolor="white", hatch=hatch, label=_(name))
            for name, (color, hatch) in _PARTS.items()
        ]
        self._axes.legend(handles=handles, ncols=3, loc="lower right", bbox_to_anchor=(1, 0.02), fontsize=12)

    def _make_row(self, row: int, dtype: str) -> list[Text]:
        """Draw the boxes of one format; return the texts in them, still empty."""
        texts = []
        for column in range(len(bits_of(0.0, dtype))):
            part = "sign" if column == 0 else "exponent" if column <= _EXPONENT_BITS[dtype] else "mantissa"
            color, hatch = _PARTS[part]
            box: dict[str, Any] = {"facecolor": "white", "edgecolor": color, "linewidth": 2}
            mark: dict[str, Any] = {"facecolor": color, "edgecolor": "white", "hatch": hatch}
            self._axes.add_patch(Rectangle((column, row + 0.2), 0.92, 0.55, **box))
            self._axes.add_patch(Rectangle((column, row + 0.75), 0.92, 0.12, **mark))
            middle: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 12, "family": "monospace"}
            texts.append(self._axes.text(column + 0.46, row + 0.49, "", **middle))
        return texts

    def write(self, number: float) -> str:
        """Write a number into the boxes; return in words what they show."""
        told = []
        for dtype, texts in self._digits.items():
            bits, stored, end = bits_of(number, dtype), stored_as(number, dtype), 1 + _EXPONENT_BITS[dtype]
            for text, bit in zip(texts, bits, strict=True):
                text.set_text(bit)
            self._meanings[dtype].set_text(f"= {stored:.9g}")
            told.append(f"{dtype} {bits[0]} {bits[1:end]} {bits[end:]} = {stored:.9g}")
        return _("The bits of {number:.9g}: sign, exponent, mantissa. {told}.").format(
            number=number, told=clauses(told)
        )
