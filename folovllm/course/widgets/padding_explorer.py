"""A widget: see what the side of the padding, the positions and the dtype do to a real batch."""

import html
import math

import ipywidgets
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from folovllm.course.padded_batch import (
    DTYPES,
    PADDING_PROMPTS,
    ROUNDING,
    SIDE_NAMES,
    SIDES,
    PaddingEffect,
    Side,
    Way,
    make_tiny_gpt2,
    measure_padding,
    pad_prompts,
    show_error,
)
from folovllm.course.token_text import text_or_bytes
from folovllm.course.widgets.card import card
from folovllm.course.widgets.widget import CourseWidget, choice, spoken, wide
from folovllm.engine.detokenizer import decode_token
from folovllm.language import N_, _

MAX_PROMPTS, MAX_COLUMNS = 4, 12
_STYLE = """<style>
.folovllm-grid th, .folovllm-grid td { padding: 2px 4px; border-top: 0 }
.folovllm-grid tbody th { width: 1.2em }
.folovllm-grid .why > td { padding-bottom: 8px }
.folovllm-grid td.next { white-space: nowrap; padding-left: 10px }
.folovllm-grid td.next > small { white-space: pre }
.folovllm-grid td.token { text-align: center; background: #DCEBF5; border: 2px solid white }
.folovllm-grid td.pad { text-align: center; color: #444; border: 2px solid white;
  background: repeating-linear-gradient(45deg, #F4F4F4 0 5px, #E4E4E4 5px 10px) }
.folovllm-grid td.read { outline: 2px solid #B26B00; outline-offset: -2px }
.folovllm-grid .text { font-size: 12px }
.folovllm-grid td > small { display: block; font-size: 12px }
.folovllm-card h4.chosen { background: #FFE9BF; padding: 2px 6px }
.folovllm-bars { display: grid; grid-template-columns: 12em 1fr; gap: 3px 8px; font-size: 13px; align-items: center }
.folovllm-bars .track { position: relative; height: 20px; border-left: 1px solid #444; white-space: nowrap }
.folovllm-bars .bar { display: inline-block; height: 16px; margin-right: 6px; vertical-align: middle }
.folovllm-bars .ticks { position: relative; height: 18px }
.folovllm-bars .ticks span { position: absolute; transform: translateX(-50%) }
</style>"""
_BARS = {
    N_("in the last column"): "repeating-linear-gradient(45deg, #0072B2 0 6px, #5FA9D6 6px 9px)",
    N_("at its last token"): "#777",
}
_BAR_SHARE = 0.8
"""Of a track's width, what the longest bar may take: its number stands behind it."""


def visible(text: str) -> str:
    """Return a token's text with its white space made visible."""
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")


class PaddingExplorer(CourseWidget):
    """Choose positions, a dtype and a model, and see what padding on either side does to the next token.

    Two models: the given one, and a tiny random GPT-2, whose positions are learned. A model reads the prompts
    when it is first shown in a dtype, which may take some seconds; after that a moved control only shows it.

    model: as ``from_pretrained`` gives it, with Hugging Face's own attention.
    prompts: 1 to 4, of at most 12 tokens each; a ValueError for others.
    network, side, positions, dtype: what is shown first. Both sides are shown; the errors are of the chosen one.
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
        self._effects: dict[tuple[str, str], dict[Way, PaddingEffect]] = {}
        text = "\n".join(prompts)
        self.prompts = ipywidgets.Textarea(
            value=text, description=_("prompts"), rows=3, continuous_update=False, layout=wide()
        )
        networks = [
            (_("the loaded model ({model_type})").format(model_type=model.config.model_type), "given"),
            (_("tiny GPT-2, learned positions"), "gpt2"),
        ]
        counted = [(_("counted over columns"), "columns"), (_("from the mask"), "mask")]
        self.controls = {
            "network": choice(_("model"), networks, network),
            "side": choice(_("padding"), [(_(SIDE_NAMES[each]), each) for each in SIDES], side),
            "positions": choice(_("positions"), counted, positions),
            "dtype": choice("dtype", DTYPES, dtype),
        }
        for control in self.controls.values():
            control.observe(lambda _: self.refresh(), "value")
        self.prompts.observe(lambda _: self.read_prompts(), "value")
        row = ipywidgets.HBox(list(self.controls.values()), layout=ipywidgets.Layout(flex_flow="row wrap"))
        self.status, self.picture = ipywidgets.HTML(), ipywidgets.HTML()
        super().__init__([self.prompts, row, self.status, self.picture])
        problem = self.read_prompts()
        if problem:
            raise ValueError(f"prompts: {problem}")

    @property
    def effect(self) -> PaddingEffect:
        """What the chosen setting does to the chosen model."""
        return self._effect_of(self.controls["side"].value)

    def effects_of(self, network: str, dtype: str) -> dict[Way, PaddingEffect]:
        """Return what each way of padding does to a model in a dtype; the model runs if it has not done so yet.

        network: "given" or "gpt2".
        """
        if (network, dtype) not in self._effects:
            prompts = self._lines()
            self._effects[network, dtype] = measure_padding(self.models[network], self.tokenizer, prompts, dtype)
        return self._effects[network, dtype]

    def _chosen_effects(self, dtype: str = "") -> dict[Way, PaddingEffect]:
        return self.effects_of(self.controls["network"].value, dtype or self.controls["dtype"].value)

    def _effect_of(self, side: Side, dtype: str = "") -> PaddingEffect:
        return self._chosen_effects(dtype)[side, self.controls["positions"].value]

    def _lines(self) -> list[str]:
        return [line for line in self.prompts.value.splitlines() if line.strip()]

    def read_prompts(self) -> str:
        """Let the chosen model read the prompts, one per line, and show what it says; return what is wrong, or ""."""
        self._problem, self._effects = self._what_is_wrong_with(self._lines()), {}
        self.refresh()
        return self._problem

    def refresh(self) -> None:
        """Show the chosen setting, or say what is wrong with the prompts."""
        if self._problem:
            self._hide(self._problem)
            return
        if (self.controls["network"].value, self.controls["dtype"].value) not in self._effects:
            self._hide(_("The model reads the prompts..."))
        self.status.value = spoken(self.effect.sentence())
        self.picture.value = card(_STYLE, *map(self._grid, SIDES), self._errors())
        self.picture.layout.visibility = "visible"

    def _hide(self, sentence: str) -> None:
        """Write a sentence, and no picture beside it; its place stays, so nothing jumps."""
        self.status.value = spoken(sentence)
        self.picture.layout.visibility = "hidden"

    def _grid(self, side: Side) -> str:
        """Return the batch with its padding on one side: tokens, positions, and the token that comes next."""
        effect, chosen = self._effect_of(side), side == self.controls["side"].value
        same = _("{same_token} of {num_same_token} prompts get the token that they get alone").format(
            same_token=sum(effect.same_token), num_same_token=len(effect.same_token)
        )
        head = _("Padding on the {side}: {same}").format(side=_(SIDE_NAMES[side]), same=same)
        columns = "<td></td>" * effect.batch.mask.shape[1]
        rows = "".join(self._row(side, row) for row in range(len(effect.next_tokens)))
        return (
            f"<h4{' class=chosen' if chosen else ''}>{head}</h4><table class='folovllm-grid'>"
            f"<tbody><tr><td></td>{columns}<td>{_('next token')}</td></tr>{rows}</tbody></table>"
        )

    def _why(self, side: Side, row: int) -> str:
        return self._effect_of(side).why(row, self._effect_of(side, "float32"), self.controls["dtype"].value)

    def _row(self, side: Side, row: int) -> str:
        effect, cells = self._effect_of(side), []
        batch = effect.batch
        for column, real in enumerate(batch.mask[row].tolist()):
            name = self._name(int(batch.token_ids[row, column])) if real else "pad"
            kind = "token" if real else "pad"
            read = " read" if column == batch.mask.shape[1] - 1 else ""
            position = int(batch.position_ids[row, column])
            cells.append(f'<td class="{kind}{read}"><span class="text">{name}</span><small>{position}</small></td>')
        token, expected = effect.next_tokens[row], effect.expected_tokens[row]
        sign, verdict = (
            ("✓", _("as alone")) if token == expected else ("✗", _("alone {name}").format(name=self._name(expected)))
        )
        return (
            f'<tr><th scope="row">{row + 1}</th>{"".join(cells)}'
            f'<td class="next">{sign} <b class="text">{self._name(token)}</b><small>{verdict}</small></td></tr>'
            f'<tr class="why"><td></td><td colspan="{len(cells) + 1}">{self._why(side, row)}</td></tr>'
        )

    def _name(self, token_id: int) -> str:
        return html.escape(visible(text_or_bytes(self.tokenizer, token_id)))

    # -- the errors ----------------------------------------------------------------------------------

    def _errors(self) -> str:
        """Return bars: how far each prompt's logits are off, read in the last column and at its last token."""
        effect, side = self.effect, self.controls["side"].value
        last = self._last_power()
        legend = " &nbsp; ".join(
            f'<span class="bar" style="width: 28px; background: {look}"></span>{_(name)}'
            for name, look in _BARS.items()
        )
        rows = []
        for row, values in enumerate(zip(effect.at_last_column, effect.at_last_token, strict=True)):
            for i, (value, look) in enumerate(zip(values, _BARS.values(), strict=True)):
                name = _("prompt {row}").format(row=row + 1) if i == 0 else ""
                share = _BAR_SHARE * math.log10(max(value, ROUNDING) / ROUNDING) / (last - math.log10(ROUNDING))
                bar = (
                    f'<span class="bar" style="width: {share:.1%}; background: {look}"></span>' if share > 0.005 else ""
                )
                rows.append(f'<b>{name}</b><div class="track">{bar}{show_error(value)}</div>')
        powers = range(round(math.log10(ROUNDING)), last + 1)
        ticks = "".join(
            f'<span style="left: {_BAR_SHARE * (power - powers[0]) / (last - powers[0]):.1%}">{10.0**power:g}</span>'
            for power in powers
        )
        head = _("Padding on the {side}: largest error of a logit, against the prompt alone in float32")
        return (
            f"<h4>{head.format(side=_(SIDE_NAMES[side]))}</h4>"
            f'<div class="folovllm-bars"><span></span><div>{legend}</div>{"".join(rows)}'
            f'<span></span><div class="ticks">{ticks}</div></div>'
        )

    def _last_power(self) -> int:
        """Return the power of ten where the axis ends: above every error that this model shows with these prompts."""
        effects = [*self._chosen_effects().values(), *self._chosen_effects("float32").values()]
        errors = [error for each in effects for error in each.at_last_column + each.at_last_token]
        return math.ceil(math.log10(max(1.0, *errors)))

    def summary(self) -> str:
        """Say what the widget shows."""
        chosen = ", ".join(f"{name}={control.value}" for name, control in self.controls.items())
        if self._problem:
            return _("PaddingExplorer: {chosen}\n{problem}").format(chosen=chosen, problem=self._problem)
        lines = [
            _("PaddingExplorer: {num_next_tokens} prompts, {chosen}").format(
                num_next_tokens=len(self.effect.next_tokens), chosen=chosen
            ),
            self.effect.sentence(),
        ]
        for side in SIDES:
            effect = self._effect_of(side)
            lines.append(_("Padding on the {side}:").format(side=_(SIDE_NAMES[side])))
            for row, (token, other) in enumerate(zip(effect.next_tokens, effect.expected_tokens, strict=True)):
                token_text, other_text = (repr(decode_token(self.tokenizer, each)) for each in (token, other))
                verdict = _("as alone") if token == other else _("alone {other_text}").format(other_text=other_text)
                lines.append(
                    _("  prompt {row}: next {token_text}, {verdict}; {why}").format(
                        row=row + 1, token_text=token_text, verdict=verdict, why=self._why(side, row)
                    )
                )
        return "\n".join(lines)

    def _what_is_wrong_with(self, prompts: list[str]) -> str:
        if not 1 <= len(prompts) <= MAX_PROMPTS:
            return _("There is room for 1 to {max_prompts} prompts, one per line; these are {num_prompts}.").format(
                max_prompts=MAX_PROMPTS, num_prompts=len(prompts)
            )
        num_columns = pad_prompts(self.tokenizer, prompts).mask.shape[1]
        if num_columns > MAX_COLUMNS:
            return _("There is room for {max_columns} tokens per prompt; the longest has {num_columns}.").format(
                max_columns=MAX_COLUMNS, num_columns=num_columns
            )
        return ""
