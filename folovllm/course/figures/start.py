"""What chapter 00 shows: how tokens cover a text, and what the model reads and adds step by step, from its record."""

import html
from collections.abc import Sequence
from typing import Any

from IPython.display import HTML, Image
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from folovllm.course.record import recorded
from folovllm.course.style import BLUE, GREY, ORANGE, new_figure, show
from folovllm.course.token_text import visible_token
from folovllm.engine.detokenizer import decode_token, token_bytes
from folovllm.language import N_, _, counted
from folovllm.llm import LLM
from folovllm.sampling_params import SamplingParams

_LOOKS: dict[str, dict[str, Any]] = {
    N_("remembered"): {"facecolor": "#eeeeee", "edgecolor": GREY, "linestyle": ":"},
    N_("read in this step"): {"facecolor": "#fce4b3", "edgecolor": ORANGE, "hatch": "..."},
    N_("new"): {"facecolor": "#cfe6f5", "edgecolor": BLUE, "linewidth": 2},
}


def plot_reading(llm: LLM, prompt: str, max_tokens: int = 5) -> Image:
    """Draw one row per step of a greedy text: what is remembered, what is read, and the token that is new."""
    engine = llm.with_settings(record_history=True, num_gpu_blocks_override=64)
    params = SamplingParams(temperature=0, max_tokens=max_tokens)
    [output] = engine.generate(prompt, params, use_tqdm=False)
    prompt_len = len(output.prompt_token_ids)
    words = [
        visible_token(llm.get_tokenizer(), token) for token in (*output.prompt_token_ids, *output.outputs[0].token_ids)
    ]
    steps = recorded(engine)
    lefts = [0.0]
    for word in words:
        lefts.append(lefts[-1] + 0.55 + 0.125 * len(word))
    figure, axes = new_figure(10, 0.9 + 0.55 * len(steps))
    for row, step in enumerate(steps):
        [sequence] = step.sequences
        num_read = prompt_len + sequence.num_output_tokens - 1
        start = num_read - sequence.num_scheduled_tokens
        kinds = ["remembered"] * start + ["read in this step"] * (num_read - start) + ["new"]
        for word, kind, left, right in zip(words, kinds, lefts, lefts[1:], strict=False):
            _draw_token(axes, word, kind, left, right, row)
        axes.text(-0.2, row, _("step {row}").format(row=row + 1), ha="right", va="center", fontsize=11)
    axes.set(xlim=(-1.3, lefts[-1]), ylim=(len(steps) - 0.4, -0.6))
    axes.axis("off")
    handles = [Patch(label=_(kind), **look) for kind, look in _LOOKS.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=11, frameon=False)
    alt = _(
        "One row per step. Step 1 reads the {prompt_len} tokens of the prompt and adds "
        "{word!r}; each further step reads only the token before and adds one, {num_steps} "
        "steps in all."
    ).format(prompt_len=prompt_len, word=words[prompt_len], num_steps=len(steps))
    return show(figure, alt)


def _draw_token(axes: Axes, word: str, kind: str, left: float, right: float, row: int) -> None:
    axes.bar(left, 0.7, right - left - 0.08, row - 0.35, align="edge", **_LOOKS[kind])
    patch = {"facecolor": "white", "linewidth": 0, "pad": 1, "alpha": 0.8} if kind == "read in this step" else None
    axes.text((left + right - 0.08) / 2, row, word, ha="center", va="center", fontsize=11, bbox=patch)


_CELL = "border: 1px solid #777; padding: 3px 0; text-align: center; color: #1a1a1a; background: "
_CHARACTER, _WHOLE, _PART = f"{_CELL}white", f"{_CELL}#cfe6f5", f"{_CELL}#fce4b3; border-style: dashed"
_TITLE_PX, _COLUMN_PX = 130, 22


def show_tokens(llm: LLM, texts: Sequence[str]) -> HTML:
    """Draw texts and under them the boxes of their tokens, each as long as its bytes; a table that every browser reads.

    A browser has fonts for all characters; a picture has those that happen to be installed.
    """
    tables = "<br>".join(_token_table(llm, text) for text in texts)
    dashed = _("dashed: a part of a character")
    key = f'<p style="margin: 4px 0 0 {_TITLE_PX}px">{dashed}</p>' if _PART in tables else ""
    return HTML(tables + key)  # type: ignore[no-untyped-call]


def _token_table(llm: LLM, text: str) -> str:
    tokenizer = llm.get_tokenizer()
    token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    alone = [decode_token(tokenizer, token) for token in token_ids]
    sizes = [
        len(token_bytes(tokenizer, token, word) or word.encode()) for token, word in zip(token_ids, alone, strict=True)
    ]
    rows = [
        (
            counted(len(text), "{n} character", "{n} characters"),
            [(_CHARACTER, len(char.encode()), char) for char in text],
        ),
        (
            counted(len(token_ids), "{n} token", "{n} tokens"),
            [_token_cell(word, size) for word, size in zip(alone, sizes, strict=True)],
        ),
    ]
    num_columns = len(text.encode())
    width = _TITLE_PX + _COLUMN_PX * num_columns
    columns = (
        f'<col style="width: {_TITLE_PX / width:.2%}">' + f'<col style="width: {_COLUMN_PX / width:.2%}">' * num_columns
    )
    return (  # on a narrow page all columns shrink alike
        f'<table style="table-layout: fixed; width: 100%; max-width: {width}px; border-collapse: collapse; margin: 0">'
        f"{columns}"
        f"{''.join(_row(title, row) for title, row in rows)}</table>"
    )


def _token_cell(word: str, num_bytes: int) -> tuple[str, int, str]:
    if "\ufffd" not in word:
        return _WHOLE, num_bytes, word
    return _PART, num_bytes, " \ufffd" if word.startswith(" ") else "\ufffd"


def _row(title: str, row: Sequence[tuple[str, int, str]]) -> str:
    """Return a row of a table: cells of a look, so many columns and a text."""
    written = (
        f'<td colspan="{columns}" style="{look}">{html.escape(text.replace(" ", "␣"))}</td>'
        for look, columns, text in row
    )
    return f'<tr><th scope="row" style="text-align: left">{title}</th>{"".join(written)}</tr>'
