"""The padding widget's numbers are Hugging Face's own; what it has computed once it shows without running a model."""

import functools
import html
import itertools
import re

import pytest
import torch
from transformers import PreTrainedModel

from folovllm.course.padded_batch import (
    DTYPES,
    PADDING_PROMPTS,
    POSITIONS,
    SIDES,
    _forward,
    make_tiny_gpt2,
    measure_padding,
    pad_prompts,
)
from folovllm.course.token_text import text_or_bytes
from folovllm.course.widgets.padding_explorer import PaddingExplorer, visible
from tests.explorer_checks import assert_moves_there_and_back
from tests.tiny_models import VOCAB_SIZE, tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer

PROMPTS = ("The dog", "Once upon a time", "a dog, the fox")
EVERY = [(side, positions, dtype) for side in SIDES for positions in POSITIONS for dtype in DTYPES]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer()


@pytest.fixture(scope="module")
def rotary():
    return tiny_model()


@pytest.fixture(scope="module")
def learned():
    return make_tiny_gpt2(VOCAB_SIZE)


@pytest.fixture(scope="module")
def effects(rotary, learned, tokenizer):
    models = {"r": rotary, "l": learned}
    found = {name: {} for name in models}
    for name, dtype in itertools.product(models, DTYPES):
        effects = measure_padding(models[name], tokenizer, PROMPTS, dtype)
        found[name] |= {(*way, dtype): effect for way, effect in effects.items()}
    return found


# -- padding and positions -------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_real_tokens_stand_on_the_other_side_and_count_from_zero(tokenizer, side):
    batch = pad_prompts(tokenizer, PROMPTS, side, "mask")
    num_columns = batch.mask.shape[1]
    for row, prompt in enumerate(PROMPTS):
        ids = tokenizer(prompt)["input_ids"]
        start = num_columns - len(ids) if side == "left" else 0
        real = slice(start, start + len(ids))
        assert batch.token_ids[row, real].tolist() == ids
        assert batch.position_ids[row, real].tolist() == list(range(len(ids)))
        assert batch.mask[row, real].all()
        assert batch.mask[row].sum() == len(ids)
        assert batch.last_real[row] == start + len(ids) - 1


def test_positions_from_the_mask_are_those_that_generate_uses(tokenizer, learned, monkeypatch):
    batch = pad_prompts(tokenizer, PROMPTS, "left", "mask")
    seen = []
    forward = type(learned).forward

    @functools.wraps(forward)
    def spy(self, *arguments, **named):
        seen.append(named["position_ids"])
        return forward(self, *arguments, **named)

    monkeypatch.setattr(type(learned), "forward", spy)
    options = {"max_new_tokens": 1, "do_sample": False, "pad_token_id": 0}
    learned.generate(batch.token_ids, attention_mask=batch.mask, **options)
    assert torch.equal(seen[0], batch.position_ids)


@torch.inference_mode()
def test_positions_by_column_are_those_of_a_plain_forward_pass(tokenizer, learned):
    batch = pad_prompts(tokenizer, PROMPTS, "left", "columns")
    plain = learned(input_ids=batch.token_ids, attention_mask=batch.mask).logits
    told = learned(input_ids=batch.token_ids, attention_mask=batch.mask, position_ids=batch.position_ids).logits
    assert torch.equal(plain, told)


@pytest.mark.parametrize("prompts", [(), ("",), ("dog", "")])
def test_a_prompt_without_tokens_is_refused(tokenizer, prompts):
    with pytest.raises(ValueError, match="each with at least one token"):
        pad_prompts(tokenizer, prompts)


# -- what it does ----------------------------------------------------------------------------------------


@torch.inference_mode()
def by_hand(model: PreTrainedModel, tokenizer, side, dtype):
    """Return errors (last column, last real token) of a plain forward pass, prompt by prompt, in loops."""
    alone = [model(tokenizer(prompt, return_tensors="pt")["input_ids"]).logits[0, -1].float() for prompt in PROMPTS]
    inputs = tokenizer(list(PROMPTS), padding=True, padding_side=side, return_tensors="pt")
    other = make_same(model).to(dtype)
    logits = other(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.float()
    column, token = [], []
    for row in range(len(PROMPTS)):
        real = [i for i, bit in enumerate(inputs["attention_mask"][row].tolist()) if bit]
        column.append((logits[row, -1] - alone[row]).abs().max().item())
        token.append((logits[row, real[-1]] - alone[row]).abs().max().item())
    return column, token


def make_same(model):
    return make_tiny_gpt2(VOCAB_SIZE) if model.config.model_type == "gpt2" else tiny_model()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_errors_are_those_of_a_plain_forward_pass(effects, rotary, learned, tokenizer, side, dtype):
    for name, model in (("r", rotary), ("l", learned)):
        column, token = by_hand(model, tokenizer, side, getattr(torch, dtype))
        effect = effects[name][side, "columns", dtype]
        assert effect.at_last_column == pytest.approx(column, rel=1e-3, abs=1e-4)
        assert effect.at_last_token == pytest.approx(token, rel=1e-3, abs=1e-4)


def test_what_hurts_whom(effects):
    wrong = {
        (name, side, positions)
        for name in effects
        for side, positions, dtype in EVERY
        if dtype == "float32" and max(effects[name][side, positions, dtype].at_last_column) > 0.01
    }
    expected = {(name, "right", positions) for name in effects for positions in POSITIONS}
    assert wrong == expected | {("l", "left", "columns")}


def test_the_last_real_token_of_right_padding_is_right(effects):
    assert all(
        max(effect.at_last_token) < 1e-4
        for each in effects.values()
        for (side, _, dtype), effect in each.items()
        if (side, dtype) == ("right", "float32")
    )


def test_sixteen_bits_take_half_the_room_and_bfloat16_errs_most(effects, rotary):
    num_parameters = rotary.num_parameters()
    errors = {}
    for dtype in DTYPES:
        effect = effects["r"]["left", "mask", dtype]
        assert effect.weight_bytes == num_parameters * (4 if dtype == "float32" else 2)
        errors[dtype] = max(effect.at_last_column)
    assert errors["float32"] < errors["float16"] < errors["bfloat16"]
    assert rotary.dtype == torch.float32


def test_the_longest_prompt_has_no_padding_and_keeps_its_token(effects):
    effect = effects["l"]["left", "columns", "float32"]
    assert effect.same_token[1]
    assert not all(effect.same_token)
    assert effect.at_last_column[1] < 1e-4


def test_the_tiny_gpt2_is_the_same_every_time_and_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, two = make_tiny_gpt2(VOCAB_SIZE), make_tiny_gpt2(VOCAB_SIZE)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


# -- the widget ------------------------------------------------------------------------------------------


@pytest.fixture
def explorer(rotary, tokenizer):
    return PaddingExplorer(rotary, tokenizer, PROMPTS, positions="columns")


def test_it_shows_the_chosen_setting(explorer, effects):
    for network, name in (("given", "r"), ("gpt2", "l")):
        explorer.controls["network"].value = network
        for side, positions, dtype in EVERY:
            for control, value in (("side", side), ("positions", positions), ("dtype", dtype)):
                explorer.controls[control].value = value
            expected = effects[name][side, positions, dtype]
            assert explorer.effect.at_last_column == pytest.approx(expected.at_last_column, rel=1e-3, abs=1e-4)
            assert explorer.effect.weight_bytes == expected.weight_bytes
            assert f"side={side}, positions={positions}, dtype={dtype}" in explorer.summary()
            assert explorer.effect.sentence() in explorer.status.value


@pytest.mark.parametrize(
    ("control", "value", "num_batches"),
    [("network", "given", 4), ("side", "right", 0), ("positions", "mask", 0), ("dtype", "bfloat16", 4)],
)
def test_a_moved_control_changes_words_and_picture_and_runs_a_model_once(
    explorer, monkeypatch, control, value, num_batches
):
    seen = []

    def spy(model, batch):
        seen.append(len(batch.token_ids))
        return _forward(model, batch)

    monkeypatch.setattr("folovllm.course.padded_batch._forward", spy)
    for _ in range(2):
        assert_moves_there_and_back(explorer, explorer.controls[control], value, f"{control}={value}")
    assert seen.count(len(PROMPTS)) == num_batches


def test_the_sentence_counts_what_is_there(explorer, tokenizer):
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    cells = 3 * max(lengths)
    assert explorer.effect.sentence().startswith(f"{cells - sum(lengths)} of {cells} cells are padding; weights ")
    explorer.controls["positions"].value = "mask"
    assert "next token as without padding: 3 of 3" in explorer.effect.sentence()
    assert "less than 0.001 in the last column, less than 0.001 at the last real" in explorer.effect.sentence()


def test_new_prompts_are_computed(explorer):
    explorer.prompts.value = "dog\n\nThe dog\nfox\nlazy dog"
    assert "4 prompts" in explorer.summary()
    assert len(explorer.effect.at_last_column) == 4
    explorer.prompts.value = "dog"
    assert explorer.effect.sentence().startswith("0 of ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "room for 1 to 4 prompts, one per line; these are 0"),
        ("a\nb\nc\nd\ne", "these are 5"),
        ("dog\n" + "x" * 40, "room for 12 tokens per prompt; the longest has"),
    ],
)
def test_prompts_without_room_are_refused_and_no_picture_stays_beside_the_error(explorer, text, says):
    explorer.prompts.value = text
    for value in ("float16", "float32"):
        assert says in explorer.status.value
        assert says in explorer.summary()
        assert explorer.picture.layout.visibility == "hidden"
        explorer.controls["dtype"].value = value
    explorer.prompts.value = "dog"
    assert "cells are padding" in explorer.status.value
    assert explorer.picture.layout.visibility == "visible"


def test_while_the_models_run_it_says_so_without_a_picture(explorer, monkeypatch):
    seen = []

    def spy(*arguments):
        seen.append((explorer.status.value, explorer.picture.layout.visibility))
        return measure_padding(*arguments)

    monkeypatch.setattr("folovllm.course.widgets.padding_explorer.measure_padding", spy)
    explorer.prompts.value = "dog"
    explorer.controls["dtype"].value = "bfloat16"
    explorer.controls["dtype"].value = "float32"
    assert [visibility for _, visibility in seen] == ["hidden"] * 2
    assert all("The model reads the prompts..." in said for said, _ in seen)


# -- what it shows ---------------------------------------------------------------------------------------


@torch.inference_mode()
def test_it_shows_the_token_that_comes_next_on_both_sides_and_alone(explorer, rotary, tokenizer):
    explorer.controls["network"].value = "given"
    alone = [
        int(rotary(tokenizer(prompt, return_tensors="pt")["input_ids"]).logits[0, -1].argmax()) for prompt in PROMPTS
    ]
    assert explorer.effect.expected_tokens == tuple(alone)
    for side in SIDES:
        inputs = tokenizer(list(PROMPTS), padding=True, padding_side=side, return_tensors="pt")
        given = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        batch = pad_prompts(tokenizer, PROMPTS, side, "columns")
        tokens = rotary(**given, position_ids=batch.position_ids).logits[:, -1].argmax(dim=1).tolist()
        section = explorer.picture.value.split(f"Padding on the {side}: ")[1].split("</table>")[0]
        shown = re.findall(r'<td class="next">. <b class="text">(.*?)</b>', section, re.S)
        assert shown == [html.escape(visible(text_or_bytes(tokenizer, token))) for token in tokens]
        same = sum(token == other for token, other in zip(tokens, alone, strict=True))
        assert section.startswith(f"{same} of 3 prompts get the token that they get alone")
        assert section.count("✓") == same


def test_it_says_why(explorer, effects):
    def whys(name, side, positions, dtype="float32"):
        exact = effects[name][side, positions, "float32"]
        return [effects[name][side, positions, dtype].why(row, exact, dtype) for row in range(3)]

    length, longest = (len(explorer.tokenizer(PROMPTS[i])["input_ids"]) for i in (0, 1))
    right = "read at its last token, positions from 0: nothing differs"
    assert whys("l", "left", "columns")[:2] == [f"its positions begin at {longest - length}, not at 0", right]
    begin = f"its positions begin at {longest - length}, but for this model only distances count"
    assert whys("r", "left", "columns")[0] == begin
    assert whys("r", "left", "columns", "bfloat16")[0] == f"{begin}; bfloat16 rounds"
    assert whys("l", "right", "mask")[0] == "read in a cell of padding, not at its last token"
    assert whys("l", "left", "mask") == [right] * 3
    assert whys("l", "left", "mask", "bfloat16")[0] == "read at its last token, positions from 0: only bfloat16 rounds"


def test_every_cell_shows_its_token_and_position(explorer, tokenizer):
    for side in SIDES:
        batch = pad_prompts(tokenizer, PROMPTS, side, "columns")
        section = explorer.picture.value.split(f"Padding on the {side}: ")[1].split("</table>")[0]
        cells = re.findall(
            r'<td class="(?:token|pad)(?: read)?"><span class="text">(.*?)</span><small>(\d+)</small>', section, re.S
        )
        expected = [
            (html.escape(visible(text_or_bytes(tokenizer, int(token)))) if real else "pad", str(int(position)))
            for row in zip(batch.token_ids, batch.mask, batch.position_ids, strict=True)
            for token, real, position in zip(*row, strict=True)
        ]
        assert cells == expected
        assert section.count(' read"') == len(PROMPTS)


def test_the_axis_ends_above_what_these_prompts_can_show(explorer):
    effects = explorer.effects_of("gpt2", "float32").values()
    errors = [error for effect in effects for error in effect.at_last_column + effect.at_last_token]
    ticks = [float(tick) for tick in re.findall(r'<span style="left: [\d.]+%">([\d.]+)</span>', explorer.picture.value)]
    assert ticks[0] == 0.001
    assert max(errors) <= ticks[-1] <= 10 * max(1, *errors)
    widths = re.findall(r'class="bar" style="width: ([\d.]+)%', explorer.picture.value)
    assert widths
    assert all(0 < float(width) <= 80 for width in widths)


def test_an_error_below_rounding_has_a_number_and_no_bar(explorer):
    explorer.controls["positions"].value = "mask"
    assert explorer.picture.value.count('<div class="track">less than 0.001</div>') == 6


def test_a_setting_that_does_not_exist_is_refused(explorer):
    with pytest.raises(Exception, match="Invalid selection"):
        explorer.controls["side"].value = "middle"


def test_without_a_kernel_it_says_all_that_it_shows(explorer):
    text = explorer._repr_mimebundle_()["text/plain"]
    assert text == explorer.summary()
    assert text.startswith("PaddingExplorer: 3 prompts")
    assert text.count("  prompt 1: next ") == 2


def test_an_error_in_a_callback_is_not_swallowed(explorer, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("broken")

    monkeypatch.setattr("folovllm.course.widgets.padding_explorer.measure_padding", fail)
    with pytest.raises(RuntimeError, match="broken"):
        explorer.prompts.value = "dog"


def test_the_default_prompts_fit(tokenizer):
    assert len({len(prompt) for prompt in PADDING_PROMPTS}) == len(PADDING_PROMPTS) == 3
