"""The figures of chapter 04: what a model's folder holds, where padding goes, and what an engine does instead."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from transformers import PreTrainedTokenizerBase

from folovllm.course.padded_batch import SIDE_NAMES, SIDES, PaddedBatch, pad_prompts
from folovllm.course.style import BLUE, GREEN, GREY, ORANGE, new_figure, show
from folovllm.course.token_text import visible_token
from folovllm.course.widgets.padding_explorer import PaddingExplorer
from folovllm.language import N_, _, clauses, labelled, listed, sentences
from folovllm.models.defaults import resolve_max_model_len

_LIGHT = {BLUE: "#D6E8F5", ORANGE: "#FBEBC8", GREEN: "#CFEDE3", GREY: "#EEEEEE"}
_OWNERS = ((BLUE, "///"), (ORANGE, "..."), (GREEN, "xx"))
"""Colour and hatch of each text of a batch."""

_PURPOSES = {
    "config.json": (N_("which class, which sizes"), BLUE),
    "generation_config.json": (N_("which token ends a text"), BLUE),
    "model.safetensors": (N_("the weights"), ORANGE),
    "tokenizer.json": (N_("text to tokens and back"), GREEN),
    "tokenizer_config.json": (N_("special tokens"), GREEN),
    "chat_template.jinja": (N_("how a chat becomes one text"), GREEN),
}


def _box(axes: Axes, x: float, y: float, width: float, text: str, color: str, height: float = 0.8) -> None:
    """Draw a box with a line or two of text in it, its upper left corner at (x, y); y grows downwards."""
    axes.add_patch(Rectangle((x, y), width, height, facecolor=_LIGHT[color], edgecolor=color, linewidth=2))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=11)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], **look: Any) -> None:
    arrow = {"arrowstyle": "-|>", "color": "#555555", "linewidth": 1.6} | look
    axes.annotate("", xy=end, xytext=start, arrowprops=arrow)


def _blank(width: float, height: float, x: float, y: float) -> tuple[Any, Axes]:
    """Return a figure for a drawing: no axis, x from left to right, y from top to bottom."""
    figure, axes = new_figure(width, height)
    axes.set(xlim=(0, x), ylim=(y, 0))
    axes.set_axis_off()
    return figure, axes


def plot_folder(folder: Path) -> Image:
    """Show the files of a model's folder, how large they are, and what is made of each."""
    figure, axes = _blank(9, 3.9, 10, 6.2)
    told = []
    for row, (name, (purpose, color)) in enumerate(_PURPOSES.items()):
        size = (folder / name).stat().st_size
        shown = _("{size:,.1f} MB").format(size=size / 1e6) if size > 1e5 else _("{size:,} bytes").format(size=size)
        _box(axes, 0.04, row + 0.1, 3.5, f"{name}\n{shown}", color)
        _arrow(axes, (3.6, row + 0.5), (4.0, row + 0.5))
        _box(axes, 4.05, row + 0.2, 3.1, _(purpose), GREY, height=0.6)
        told.append(_("{name}, {size}: {purpose}").format(name=name, size=shown, purpose=_(purpose)))
    for first, last, text, color in ((0, 2, _("the model"), ORANGE), (3, 5, _("the tokenizer"), GREEN)):
        for row in range(first, last + 1):
            _arrow(axes, (7.2, row + 0.5), (8.0, (first + last) / 2 + 0.5))
        _box(axes, 8.05, (first + last) / 2 + 0.05, 1.9, text, color, height=0.9)
    return show(figure, _("Six files, and what is made of each. {told}.").format(told=clauses(told)))


def plot_safetensors(path: Path) -> Image:
    """Show how a safetensors file is laid out."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    places = sorted((each["data_offsets"], name) for name, each in entries.items() if name != "__metadata__")
    size = places[-1][0][1]
    parts = [
        (_("8 bytes:\nhow long is\nthe list?"), 1.3, BLUE),
        (_("the list, {length:,} bytes:\nname, dtype,\nshape, place").format(length=length), 2.7, GREEN),
        *(
            (
                _("{name}\n{first:,} to\n{last:,}").format(name=name.split(".")[-2], first=first, last=last),
                2.1,
                ORANGE,
            )
            for (first, last), name in places[:2]
        ),
        (_("... {num_places}\nmore").format(num_places=len(places) - 2), 1.35, ORANGE),
    ]
    figure, axes = _blank(9, 2.2, 10, 3.2)
    x = 0.05
    for text, width, color in parts:
        _box(axes, x, 0.9, width, text, color, height=1.7)
        x += width + 0.04
    axes.text(0.05, 0.55, _("model.safetensors, from its first byte to its last (not to scale)"), fontsize=11)
    axes.text(4.15, 2.95, _("the numbers: places are counted from here"), fontsize=11, color="#8A5A00")
    alt = _(
        "A file in three parts: 8 bytes with the length of the list; the list, {length:,} bytes; "
        "then {size:,} bytes of numbers, {num_places} tensors one behind the other. The first is "
        "{first}."
    ).format(length=length, size=size, num_places=len(places), first=places[0][1])
    return show(figure, alt)


def _draw_rows(axes: Axes, batch: PaddedBatch, names: list[list[str]]) -> None:
    """Draw a padded batch as cells, with an arrow at the column behind which the next token comes."""
    num_rows, num_columns = batch.mask.shape
    for row in range(num_rows):
        rest = iter(names[row])
        for column in range(num_columns):
            real = bool(batch.mask[row, column])
            look: dict[str, Any] = {
                "facecolor": _LIGHT[BLUE if real else GREY],
                "hatch": "" if real else "///",
                "edgecolor": "#BBBBBB",
            }
            axes.add_patch(Rectangle((column + 0.03, row + 0.08), 0.94, 0.84, linewidth=0, **look))
            text = next(rest) if real else ""
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=11)
        good = bool(batch.mask[row, -1])
        next_to: dict[str, Any] = {
            "fontsize": 13,
            "va": "center",
            "color": "#00614A" if good else "#A33B00",
            "fontweight": "bold",
        }
        axes.text(num_columns + 0.12, row + 0.5, _("→ next") if good else _("→ next?"), **next_to)
    axes.set(xlim=(0, num_columns + 1.3), ylim=(num_rows, 0))
    axes.set_axis_off()


def _token_names(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[str]]:
    """Return the text of every token of every prompt."""
    return [[visible_token(tokenizer, token) for token in tokenizer(each)["input_ids"]] for each in prompts]


def plot_sides(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> Image:
    """Show the same prompts padded on the left and on the right, and where the next token is asked for."""
    names = _token_names(tokenizer, prompts)
    figure, each_axes = new_figure(10, 4.2, nrows=2)
    for axes, side in zip(each_axes, SIDES, strict=True):
        _draw_rows(axes, pad_prompts(tokenizer, prompts, side), names)
        axes.set_title(_("padding on the {side} (hatched)").format(side=_(SIDE_NAMES[side])), loc="left", fontsize=12)
    lengths = listed(len(row) for row in names)
    alt = _(
        "Prompts of {lengths} tokens in a rectangle, twice. With padding on the left every row "
        "ends in a real token; on the right the short rows end in padding, and the next token is "
        "asked for behind it."
    ).format(lengths=lengths)
    return show(figure, alt)


def plot_padding(explorer: PaddingExplorer) -> Image:
    """Show the error in the last column for every way of padding, for both models of a widget, in float32."""
    ways = list(explorer.effects_of("given", "float32"))
    looks = {
        "given": (BLUE, "///", _("the loaded model (rotary positions)")),
        "gpt2": (ORANGE, "", _("tiny GPT-2 (learned positions)")),
    }
    figure, axes = new_figure(9, 3.2)
    told = []
    for i, (name, (color, hatch, label)) in enumerate(looks.items()):
        errors = [max(explorer.effects_of(name, "float32")[way].at_last_column) for way in ways]
        places = np.arange(len(ways)) + 0.4 * (i - 0.5)
        bars = axes.bar(places, errors, 0.36, color=color, hatch=hatch, edgecolor="white", label=label)
        axes.bar_label(bars, [_("none") if error < 0.01 else f"{error:.1f}" for error in errors], fontsize=11)
        seen = listed(_("large") if error > 0.1 else _("none to speak of") for error in errors)
        told.append(_("{label}: {words}.").format(label=label, words=seen))
    counted = {"columns": _("positions count columns"), "mask": _("positions from the mask")}
    labels = [
        _("padding {side}\n{counted}").format(side=_(SIDE_NAMES[side]), counted=counted[positions])
        for side, positions in ways
    ]
    axes.set_xticks(range(len(ways)), labels)
    axes.set(
        ylabel=_("largest error of a logit"), title=_("logits behind the last column: how far from each prompt alone")
    )
    axes.margins(y=0.25)
    axes.legend(fontsize=11, loc="upper left")
    alt = _("Bars of the error for {labels}. {told}").format(
        labels=clauses(listed(label.splitlines()) for label in labels), told=sentences(*told)
    )
    return show(figure, alt)


def plot_waste(lengths: Sequence[int]) -> Image:
    """Show a batch of prompts as a padded rectangle and as one row without padding, whose tokens are as wide.

    lengths: of the prompts, in tokens; the longest is the essay.
    """
    longest, cells = max(lengths), max(lengths) * len(lengths)
    figure, (rectangle, flat) = new_figure(9.5, 4.2, nrows=2, height_ratios=(6, 1), sharex=True)
    padding: dict[str, Any] = {"facecolor": _LIGHT[GREY], "edgecolor": "#C4C4C4", "hatch": "///", "linewidth": 0}
    rectangle.add_patch(Rectangle((0, 0.5), longest, len(lengths) - 1, label=_("padding"), **padding))
    colors = [BLUE if length == longest else ORANGE for length in lengths]
    rectangle.barh(range(len(lengths)), lengths, 0.8, color=colors)
    rectangle.set(
        ylim=(len(lengths) - 0.5, -0.5), ylabel=_("{num_lengths} prompts").format(num_lengths=len(lengths)), yticks=[]
    )
    rectangle.set_title(
        _("padded: {cells:,} cells, {tokens:,} of them tokens").format(cells=cells, tokens=sum(lengths)), loc="left"
    )
    ends = np.cumsum(lengths)
    end = int(ends[-1])
    flat.barh(0.5, lengths, 1, left=ends - lengths, color=colors, edgecolor="white", linewidth=0.8)
    for color, name in ((BLUE, _("the essay")), (ORANGE, _("a letter"))):
        rectangle.add_patch(Rectangle((0, 0), 0, 0, color=color, label=name))
    rectangle.legend(fontsize=11, loc="upper right")
    flat.set(ylim=(0, 1), yticks=[], xlim=(0, end * 1.02), xlabel=_("tokens"))
    flat.set_title(_("flat: {end:,} tokens, one prompt behind the other").format(end=end), loc="left")
    alt = _(
        "Above, {num_lengths} prompts padded to {longest:,} columns: a rectangle that is almost "
        "all padding; {share:.0f} % of {cells:,} cells are tokens. Below, the same in one row: "
        "{end:,}."
    ).format(num_lengths=len(lengths), longest=longest, share=100 * sum(lengths) / cells, cells=cells, end=end)
    return show(figure, alt)


def plot_flat_batch(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> Image:
    """Show prompts as one row of tokens, each with its position in its own text."""
    names = _token_names(tokenizer, prompts)
    widths = [[0.75 * len(name) + 2 for name in row] for row in names]
    figure, axes = _blank(11, 1.9, sum(map(sum, widths)), 2.75)
    x = 0.0
    for row, tokens in enumerate(names):
        color, hatch = _OWNERS[row % len(_OWNERS)]
        axes.text(x + 0.3, 0.35, _("prompt {row}").format(row=row + 1), fontsize=12)
        for position, (name, width) in enumerate(zip(tokens, widths[row], strict=True)):
            look: dict[str, Any] = {"facecolor": _LIGHT[color], "edgecolor": color, "linewidth": 1.5}
            axes.add_patch(Rectangle((x + 0.08, 0.7), width - 0.16, 1.0, **look))
            below: dict[str, Any] = {"facecolor": "white", "edgecolor": color, "hatch": hatch}
            axes.add_patch(Rectangle((x + 0.08, 1.7), width - 0.16, 0.14, **below))
            middle, last = x + width / 2, position == len(tokens) - 1
            axes.text(middle, 1.2, name, ha="center", va="center", fontsize=11)
            axes.text(middle, 2.15, str(position), ha="center", fontsize=12, fontweight="bold" if last else "normal")
            if last:
                axes.text(middle, 2.65, "▲", ha="center", fontsize=12, color=color)
            x += width
    alt = _(
        "{count} tokens in one row, {names}. Below each stands its position, which begins at 0 "
        "again with every prompt; a triangle marks each prompt's last token."
    ).format(count=sum(map(len, names)), names=" + ".join(str(len(each)) for each in names))
    return show(figure, alt)


def plot_limits(cases: Mapping[str, tuple[Mapping[str, Any], int | None]]) -> Image:
    """Show for each case the limits that are written somewhere, and how long a text may be.

    cases: by their names, a model's config and its tokenizer's limit.
    """
    figure, axes = new_figure(9, 1.05 * len(cases) + 0.9)
    looks = {
        _("in config.json"): ("o", BLUE),
        _("the tokenizer's"): ("s", ORANGE),
        _("the notes' rule"): ("X", "#A33B00"),
        _("our engine"): ("D", GREEN),
    }
    told = []
    for row, (name, (config, tokenizer_limit)) in enumerate(cases.items()):
        reached = resolve_max_model_len(config, tokenizer_limit)
        ruled = config.get("max_position_embeddings", 2048)
        written = next(value for value in config.values() if isinstance(value, int))
        axes.axhspan(row - 0.46, row + 0.46, color="#F4F4F4", zorder=0)
        for label, limit in zip(looks, (written, tokenizer_limit, ruled, reached), strict=True):
            if limit is not None:
                marker, color = looks[label]
                height = row + {_("the notes' rule"): 0, _("our engine"): 0.29}.get(label, -0.29)
                axes.plot(limit, height, marker, color=color, markersize=11, label=label)
                axes.annotate(f"{limit:,}", (limit, height), (12, 0), textcoords="offset points", va="center", size=12)
        told.append(
            _("{name}: {reached:,}, by the notes' rule {ruled:,}").format(name=name, reached=reached, ruled=ruled)
        )
    axes.set_yticks(range(len(cases)), list(cases), fontsize=12)
    axes.set(xscale="log", xlim=(700, 300_000), ylim=(len(cases) - 0.5, -0.5), xlabel=_("tokens"))
    axes.set_xticks([1024, 8192, 65536], ["1,024", "8,192", "65,536"])
    axes.minorticks_off()
    axes.set_title(_("how long a text may be"), loc="left")
    handles, labels = axes.get_legend_handles_labels()
    every = dict(zip(labels, handles, strict=True))
    axes.legend(
        [every[label] for label in looks if label in every],
        [label for label in looks if label in every],
        fontsize=11,
        loc="upper right",
    )
    return show(figure, _("How long a text may be, in tokens. {told}.").format(told=clauses(told)))


def plot_factory() -> Image:
    """Show the stations of ``get_model_and_tokenizer``, what is refused at each, and where Chen's folder ends."""
    stations = [
        ("config.json", _("broken, or\nneeds its code"), BLUE),
        (_("the class"), _("the engine\ncannot run it"), BLUE),
        (_("the dtype"), _("the model\noverflows in it"), BLUE),
        (_("the weights"), _("missing, or of\nanother shape"), ORANGE),
        (_("the tokenizer"), _("missing\nfiles"), GREEN),
    ]
    figure, axes = _blank(10, 2.1, 10.1, 3)
    axes.text(0.5, 0.55, _("Chen's\nfolder"), ha="center", va="center", fontsize=11)
    for i, (name, refused, color) in enumerate(stations):
        x = 1.82 * i + 1.4
        way = {"color": "#A33B00", "linewidth": 2.5, "linestyle": "--"} if i == 0 else {}  # Chen's folder goes here
        _box(axes, x, 0.1, 1.4, name, color, height=0.9)
        _arrow(axes, (x - 0.42, 0.55), (x, 0.55), **way)
        _arrow(axes, (x + 0.7, 1.02), (x + 0.7, 1.85), **way)
        axes.text(x + 0.7, 2.4, f"✗ {refused}", ha="center", va="center", fontsize=11)
    told = clauses(labelled(name, sentences(*refused.splitlines())) for name, refused, _color in stations)
    ends = _("Chen's folder ends at the first one: it needs its own code.")
    return show(
        figure,
        _("Five stations from left to right, and for what a model is refused at each. {told}. {ends}").format(
            told=told, ends=ends
        ),
    )
