"""The pictures of chapter 05: the map lights up where one is, seats are the record's, streams are the engine's."""

import re
from types import SimpleNamespace

import pytest

from folovllm.course.figures.data_flow import seat, steps_waited, stream_table
from folovllm.course.flow_diagram import PARTS, describe_data_flow, draw_data_flow
from folovllm.course.style import new_figure
from tests.tiny_models import tiny_llm


@pytest.fixture
def axes():
    return new_figure(10, 4.8)[1]


def lit(diagram):
    return [name for name, box in diagram._boxes.items() if box.get_linewidth() > 2]


def test_the_map_is_lit_up_where_one_is_and_changes_in_place(axes):
    diagram = draw_data_flow(axes, "model")
    assert lit(diagram) == ["model"]
    diagram.light(("scheduler", "KV blocks"))
    assert lit(diagram) == ["scheduler", "KV blocks"]
    diagram.light(None)
    assert lit(diagram) == []
    assert not diagram._pin.get_visible()


def test_a_part_says_what_it_did_and_the_others_what_they_do(axes):
    diagram = draw_data_flow(axes)
    diagram.say({"sampler": "1 row to 7042"})
    assert diagram._lines["sampler"].get_text() == "1 row to 7042"
    assert diagram._lines["model"].get_text() == PARTS["model"].does
    diagram.say({})
    assert diagram._lines["sampler"].get_text() == PARTS["sampler"].does


def test_eighteen_letters_fit_into_a_box(axes):
    diagram = draw_data_flow(axes)
    diagram.say(dict.fromkeys(PARTS, "waiting to running"))
    axes.figure.canvas.draw()
    for name, line in diagram._lines.items():
        assert line.get_window_extent().width < diagram._boxes[name].get_window_extent().width


def test_the_map_in_words_says_where_one_is():
    assert describe_data_flow("model", {"model": "5 ids"}).endswith("You are here: model runner. model runner: 5 ids.")


def test_a_part_that_does_not_exist_is_refused(axes):
    with pytest.raises(ValueError, match=r"here must be one of tokenizer, .*, output, got 'gpu'"):
        draw_data_flow(axes, "gpu")


def test_one_keeps_a_seat_to_the_end_and_a_newcomer_takes_the_first_free_one():
    def step(*runs, waits=()):
        sequences = [SimpleNamespace(request_id=who, num_scheduled_tokens=1) for who in runs]
        sequences += [SimpleNamespace(request_id=who, num_scheduled_tokens=0) for who in waits]
        return SimpleNamespace(sequences=sequences)

    steps = [step("Bo", "Chen", waits=["Anna"]), step("Chen"), step("Chen", "Anna")]
    assert seat(steps, 2) == [["Bo", "Chen"], [None, "Chen"], ["Anna", "Chen"]]
    assert steps_waited("Anna", steps, {"Anna": 0}) == 2


def test_the_table_of_a_stream_holds_back_what_may_still_change():
    table = stream_table(tiny_llm().get_tokenizer(), "Ab🏮c", ["c!"]).data
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    assert "".join(new for _, new, *_ in rows).replace(" ", "") == "Ab🏮c".encode().hex()
    assert rows[-1][2:] == ["Ab🏮c", "c", "Ab🏮"]
    assert any(held == "b + 1 byte" or held == "b + 2 bytes" or held == "b + 3 bytes" for *_, held, _ in rows)
    assert not any("\ufffd" in shown for *_, shown in rows)
