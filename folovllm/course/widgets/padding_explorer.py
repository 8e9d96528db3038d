"""A widget: see what the side of the padding, the positions and the dtype do to a real batch."""

from typing import Any

import ipywidgets
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from folovllm.course.padded_batch import (
    DTYPES,
    PADDING_PROMPTS,
    SIDES,
    PaddedBatch,
    PaddingEffect,
    Positions,
    Setting,
    Side,
    make_tiny_gpt2,
    measure_padding,
    pad_prompts,
)
from folovllm.course.style import BLUE, GREY, ORANGE, canvas_to_png, new_figure
from folovllm.course.widgets.sampling_explorer import visible_text
from folovllm.course.widgets.widget import PictureWidget, choice, wide
from folovllm.engine.detokenizer import decode_token

MAX_PROMPTS, MAX_COLUMNS = 4, 12
_SMALLEST, _LARGEST = 1e-6, 1e5
_REAL, _PADDING = "#DCEBF5", "#EEEEEE"


class TokenGrid:
    """A batch as a rectangle of cells, each with its token and its position; padding is grey and hatched."""

    def __init__(self, axes: Axes) -> None:
        self._axes = axes
        self._cells: list[list[tuple[Rectangle, Text, Text]]] = []
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0)

    def lay_out(self, num_rows: int, num_columns: int) -> None:
        """Make the cells of a new batch; nothing is written into them yet."""
        for artist in [*self._axes.patches, *self._axes.texts]:
            artist.remove()
        self._cells = [[self._make_cell(row, column) for column in range(num_columns)] for row in range(num_rows)]
        ends: dict[str, Any] = {"fill": False, "edgecolor": ORANGE, "linewidth": 3, "zorder": 3, "clip_on": False}
        self._axes.add_patch(Rectangle((num_columns - 1, 0), 1, num_rows, **ends))
        self._axes.set(xlim=(0, num_columns), ylim=(num_rows, 0), title="token and position")
        self._axes.set_xticks([each + 0.5 for each in range(num_columns)], list(map(str, range(num_columns))))
        self._axes.set_yticks([each + 0.5 for each in range(num_rows)], [f"prompt {i + 1}" for i in range(num_rows)])
        self._axes.set_xlabel("column (framed: where generate reads)")

    def _make_cell(self, row: int, column: int) -> tuple[Rectangle, Text, Text]:
        cell = Rectangle((column + 0.03, row + 0.06), 0.94, 0.88, linewidth=0)
        self._axes.add_patch(cell)
        middle: dict[str, Any] = {"ha": "center", "va": "center", "in_layout": False}
        token = self._axes.text(column + 0.5, row + 0.36, "", fontsize=8, family="monospace", **middle)
        position = self._axes.text(column + 0.5, row + 0.72, "", fontsize=9, **middle)
        return cell, token, position

    def fill(self, batch: PaddedBatch, names: list[list[str]]) -> None:
        """Write a batch into the cells. names: of the real tokens, one list a prompt."""
        width = 66 // batch.mask.shape[1]
        for row, cells in enumerate(self._cells):
            rest = iter(names[row])
            for column, (cell, token, position) in enumerate(cells):
                real = bool(batch.mask[row, column])
                cell.set(facecolor=_REAL if real else _PADDING, hatch="" if real else "///", edgecolor="#BBBBBB")
                name = next(rest) if real else "pad"
                token.set_text(name if len(name) <= width else name[: width - 1] + "…")
                position.set_text(str(int(batch.position_ids[row, column])))
                position.set_color("black" if real else "#767676")


class PaddingPicture:
    """The batch, and beside it how far each prompt's logits are off.

    Each way of padding is drawn once and kept as a background; a moved control redraws only bars and words.
    """

    def __init__(self) -> None:
        self.figure, (grid, errors) = new_figure(10.5, 3.6, ncols=2, width_ratios=(3, 2))
        self._grid = TokenGrid(grid)
        self._errors = errors
        self._sentence = self.figure.suptitle("", fontsize=11, fontweight="bold")

    def begin(self, batches: dict[tuple[Side, Positions], PaddedBatch], names: list[list[str]]) -> None:
        """Draw the grid for every way of padding. names: of the real tokens, one list a prompt."""
        num_rows, num_columns = next(iter(batches.values())).mask.shape
        self._grid.lay_out(num_rows, num_columns)
        self._lay_out_errors(num_rows)
        self._sentence.set_text(" \n ")  # holds the place of two lines
        self._backgrounds = {}
        for way, batch in batches.items():
            self._grid.fill(batch, names)
            self.figure.canvas.draw()
            self._backgrounds[way] = self.figure.canvas.copy_from_bbox(self.figure.bbox)  # type: ignore[attr-defined]

    def _lay_out_errors(self, num_rows: int) -> None:
        errors = self._errors
        errors.clear()
        places = range(num_rows)
        start: dict[str, Any] = {"height": 0.36, "left": _SMALLEST}
        blue = {"color": BLUE, "hatch": "///", "edgecolor": "white", "label": "last column"}
        self._column_bars = errors.barh([i - 0.2 for i in places], [0] * num_rows, **start, **blue)
        grey = {"color": GREY, "label": "last real token"}
        self._token_bars = errors.barh([i + 0.2 for i in places], [0] * num_rows, **start, **grey)
        right = {"ha": "right", "va": "center", "fontsize": 10, "in_layout": False}
        self._verdicts = [errors.text(_LARGEST, i, "", **right) for i in places]
        errors.set(xscale="log", xlim=(_SMALLEST, _LARGEST), ylim=(num_rows - 0.4, -1.1), yticks=[])
        errors.set(xlabel="largest error of a logit", title=" ")
        errors.legend(loc="upper left", fontsize=9, ncols=2)
        self._moving = [*self._column_bars, *self._token_bars, *self._verdicts, errors.title, self._sentence]
        for artist in self._moving:
            artist.set_animated(True)

    def update(self, way: tuple[Side, Positions], effect: PaddingEffect, title: str) -> bytes:
        """Show one setting over the background of its way of padding; return the picture as PNG."""
        for bars, values in ((self._column_bars, effect.at_last_column), (self._token_bars, effect.at_last_token)):
            for bar, value in zip(bars, values, strict=True):
                bar.set_width(max(value - _SMALLEST, 0))
        for verdict, same in zip(self._verdicts, effect.same_token, strict=True):
            verdict.set_text("✓ same token" if same else "✗ other token")
        self._errors.title.set_text(title)
        self._sentence.set_text(effect.sentence().replace("; largest", "\nlargest"))
        canvas: Any = self.figure.canvas
        canvas.restore_region(self._backgrounds[way])
        for artist in self._moving:
            self.figure.draw_artist(artist)
        return canvas_to_png(canvas)


class PaddingExplorer(PictureWidget):
    """Choose a side for the padding, positions and a dtype, and see what becomes of the logits.

    Two models: the given one, and a tiny random GPT-2, whose positions are learned. All settings of both
    are computed when the prompts change, which takes some seconds; a moved control only shows them.

    model: as ``from_pretrained`` gives it, with Hugging Face's own attention.
    prompts: 1 to 4, of at most 12 tokens each; a ValueError for others.
    network, side, positions, dtype: what is shown first.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: tuple[str, ...] = PADDING_PROMPTS,
        *,
        network: str = "gpt2",
        side: str = "left",
        positions: str = "mask",
        dtype: str = "float32",
    ) -> None:
        self.tokenizer = tokenizer
        self.models = {"given": model, "gpt2": make_tiny_gpt2(len(tokenizer))}
        self.effects: dict[str, dict[Setting, PaddingEffect]] = {}
        self._picture = PaddingPicture()
        text = "\n".join(prompts)
        self.prompts = ipywidgets.Textarea(
            value=text, description="prompts", rows=3, continuous_update=False, layout=wide()
        )
        networks = [
            (f"the loaded model ({model.config.model_type})", "given"),
            ("tiny GPT-2, learned positions", "gpt2"),
        ]
        counted = [("counted over columns", "columns"), ("from the mask", "mask")]
        self.controls = {
            "network": choice("model", networks, network),
            "side": choice("padding", SIDES, side),
            "positions": choice("positions", counted, positions),
            "dtype": choice("dtype", DTYPES, dtype),
        }
        for control in self.controls.values():
            control.observe(lambda _: self.refresh(), "value")
        self.prompts.observe(lambda _: self.read_prompts(), "value")
        row = ipywidgets.HBox(list(self.controls.values()), layout=ipywidgets.Layout(flex_flow="row wrap"))
        super().__init__([self.prompts, row])
        problem = self.read_prompts()
        if problem:
            raise ValueError(f"prompts: {problem}")

    @property
    def setting(self) -> Setting:
        """The chosen side, positions and dtype."""
        return self.controls["side"].value, self.controls["positions"].value, self.controls["dtype"].value

    @property
    def effect(self) -> PaddingEffect:
        """What the chosen setting does to the chosen model."""
        return self.effects[self.controls["network"].value][self.setting]

    def read_prompts(self) -> str:
        """Compute every setting for the prompts, one a line, and show the chosen one; return what is wrong, or ""."""
        prompts = [line for line in self.prompts.value.splitlines() if line.strip()]
        problem = self._what_is_wrong_with(prompts)
        if problem:
            self.say(problem)
            return problem
        self.effects = {name: measure_padding(model, self.tokenizer, prompts) for name, model in self.models.items()}
        self._names = [
            [visible_text(decode_token(self.tokenizer, token)) for token in self.tokenizer(prompt)["input_ids"]]
            for prompt in prompts
        ]
        batches = {(side, positions): effect.batch for (side, positions, _), effect in self.effects["gpt2"].items()}
        self._picture.begin(batches, self._names)
        self.refresh()
        return ""

    def refresh(self) -> None:
        """Show the chosen setting."""
        side, positions, dtype = self.setting
        model_type = self.models[self.controls["network"].value].config.model_type
        title = f"{model_type} in {dtype}, against float32 unpadded"
        self.show(self.effect.sentence(), self._picture.update((side, positions), self.effect, title))

    def summary(self) -> str:
        """Say what the widget shows."""
        chosen = ", ".join(f"{name}={control.value}" for name, control in self.controls.items())
        return f"PaddingExplorer: {len(self._names)} prompts, {chosen}\n{self.effect.sentence()}"

    def _what_is_wrong_with(self, prompts: list[str]) -> str:
        if not 1 <= len(prompts) <= MAX_PROMPTS:
            return f"There is room for 1 to {MAX_PROMPTS} prompts, one a line; these are {len(prompts)}."
        num_columns = pad_prompts(self.tokenizer, prompts).mask.shape[1]
        if num_columns > MAX_COLUMNS:
            return f"There is room for {MAX_COLUMNS} tokens a prompt; the longest has {num_columns}."
        return ""
