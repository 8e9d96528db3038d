"""What ``chat`` makes of a conversation; the oracle is HuggingFace's own ``apply_chat_template``."""

import copy
import dataclasses
import datetime
import re

import numpy as np
import pytest
import torch

from folovllm import LLM, SamplingParams
from tests.tiny_models import tiny_llm, tiny_model
from tests.tiny_tokenizers import CHAT_TEMPLATE, byte_level_tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=3)
USER = {"role": "user", "content": "hello"}
HALF = {"role": "assistant", "content": "The dog"}
PARTS = [{"type": "text", "text": "Once"}, {"type": "text", "text": "upon"}]

# Of the shapes that models' own templates have.
QWEN3_LIKE = (
    "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}"
    "{{- '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- set content = message.content if message.content is string else '' %}"
    "{{- '<|im_start|>' + message.role + '\\n' + content }}"
    "{%- for call in message.tool_calls or [] %}"
    "{{- '<call>' + call.function.name }}{{- call.function.arguments | tojson }}{%- endfor %}{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
PARTS_ONLY = (
    "{% for message in messages %}{{ message['role'] }}:"
    "{% for part in message['content'] %}[{{ part['text'] }}]{% endfor %}{% endfor %}"
)
EITHER = (
    "{% for m in messages %}{% if m.content is string %}<{{ m.content }}>"
    "{% else %}{% for part in m.content | selectattr('type', 'equalto', 'text') %}[{{ part.text }}]{% endfor %}"
    "{% endif %}{% endfor %}"
)
MACRO = (
    "{% macro write(content) %}{% if content is string %}<{{ content }}>{% else %}"
    "{% for part in content %}[{{ part.text }}]{% endfor %}{% endif %}{% endmacro %}"
    "{% for m in messages %}{{ write(m.content) }}{% endfor %}"
)
MARKED = "{% for m in messages %}{%- generation -%}{{ m.content }}{%- endgeneration -%}{% endfor %}"


@pytest.fixture(scope="module")
def llm() -> LLM:
    return tiny_llm(tiny_model(num_hidden_layers=1), copy.deepcopy(byte_level_tokenizer()))


def text_of(llm: LLM, messages, **options) -> str:
    return llm.chat_prompt(messages, **options)["prompt"]


def by_huggingface(llm: LLM, messages, chat_template=None, **options) -> str:
    options = {"add_generation_prompt": True} | options
    return llm.get_tokenizer().apply_chat_template(messages, chat_template=chat_template, tokenize=False, **options)


def weather(city: str) -> str:
    """
    Tell the weather.

    Args:
        city: Where.
    """
    return city


OPTIONS = {
    "none": {},
    "no start of an answer": {"add_generation_prompt": False},
    "another template": {"chat_template": "{{ bos_token }}{{ messages[0].content }}"},
    "thinking": {"chat_template": QWEN3_LIKE, "chat_template_kwargs": {"enable_thinking": True}},
    "no thinking": {"chat_template": QWEN3_LIKE, "chat_template_kwargs": {"enable_thinking": False}},
    "a variable that nobody reads": {"chat_template_kwargs": {"colour": "red"}},
    "a special token renamed": {"chat_template": "{{ bos_token }}", "chat_template_kwargs": {"bos_token": "<s>"}},
    "documents": {"chat_template": "{{ documents[0].text }}", "chat_template_kwargs": {"documents": [{"text": "d"}]}},
    "a tool as a schema": {"chat_template": QWEN3_LIKE, "tools": [{"name": "f"}]},
    "a tool as a function": {"chat_template": QWEN3_LIKE, "tools": (weather,)},
    "generation marks": {"chat_template": MARKED},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_options_do_what_they_do_in_huggingface(llm, options):
    passed = {name: value for name, value in options.items() if name != "chat_template_kwargs"}
    passed |= options.get("chat_template_kwargs", {})
    if "tools" in passed:
        passed["tools"] = list(passed["tools"])
    expected = by_huggingface(llm, [USER, HALF, USER], **passed)
    assert text_of(llm, [USER, HALF, USER], **options) == expected
    (output,) = llm.chat((USER, HALF, USER), GREEDY, use_tqdm=False, **options)
    assert output.prompt == expected
    assert output.prompt_token_ids == llm.get_tokenizer()(expected, add_special_tokens=False)["input_ids"]


def test_qwen3_thinks_unless_it_is_told_not_to(llm):
    texts = [
        text_of(llm, [USER], chat_template=QWEN3_LIKE, chat_template_kwargs=kwargs)
        for kwargs in (None, {"enable_thinking": False})
    ]
    assert texts[1] == texts[0] + "<think>\n\n</think>\n\n"


def test_the_last_message_is_continued(llm):
    options = {"add_generation_prompt": False, "continue_final_message": True}
    text = text_of(llm, [USER, HALF], **options)
    assert text == by_huggingface(llm, [USER, HALF], **options)
    assert text.endswith("<|im_start|>assistant\nThe dog")
    in_parts = HALF | {"content": [{"type": "text", "text": "The dog"}]}
    assert text_of(llm, [USER, in_parts], **options) == text


def test_every_conversation_of_a_list_gets_the_same_options(llm):
    conversations = ([USER], (USER, HALF, USER))
    outputs = llm.chat(conversations, (GREEDY, GREEDY), use_tqdm=False, chat_template=EITHER)
    assert [output.prompt for output in outputs] == ["<hello>", "<hello><The dog><hello>"]


def test_what_follows_a_conversation_is_generated_as_from_its_text(llm):
    options = {"chat_template": QWEN3_LIKE, "chat_template_kwargs": {"enable_thinking": False}}
    (chatted,) = llm.chat([USER], GREEDY, use_tqdm=False, **options)
    (generated,) = llm.generate(by_huggingface(llm, [USER], QWEN3_LIKE, enable_thinking=False), GREEDY, use_tqdm=False)
    assert chatted.outputs[0].token_ids == generated.outputs[0].token_ids


# -- content ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, QWEN3_LIKE], ids=["plain", "qwen3"])
def test_text_parts_are_joined_for_a_template_that_takes_text(llm, template):
    joined = by_huggingface(llm, [USER | {"content": "Once\nupon"}], template)
    assert text_of(llm, [USER | {"content": PARTS}], chat_template=template) == joined
    assert text_of(llm, [USER | {"content": tuple(PARTS)}], chat_template=template) == joined


@pytest.mark.parametrize("template", [PARTS_ONLY, EITHER, MACRO], ids=["parts only", "either", "macro"])
def test_text_parts_are_left_to_a_template_that_takes_them(llm, template):
    messages = [USER | {"content": PARTS}]
    text = text_of(llm, messages, chat_template=template)
    assert text == by_huggingface(llm, messages, template)
    assert text.endswith("[Once][upon]")


def test_a_string_becomes_a_part_where_letters_would_be_looped_over(llm):
    assert text_of(llm, [USER], chat_template=PARTS_ONLY) == "user:[hello]"
    assert by_huggingface(llm, [USER], PARTS_ONLY) != "user:[hello]"
    for template in (EITHER, MACRO):
        assert text_of(llm, [USER], chat_template=template) == by_huggingface(llm, [USER], template) == "<hello>"


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, EITHER], ids=["plain", "either"])
def test_what_a_tool_returned_is_text(llm, template):
    asked = USER | {"role": "tool", "tool_call_id": "1", "name": "weather"}
    expected = by_huggingface(llm, [asked | {"content": "Once\nupon"}], template)
    assert text_of(llm, [asked | {"content": PARTS}], chat_template=template) == expected


def test_what_a_tool_returned_stays_in_parts_where_letters_would_be_looped_over(llm):
    for content in (PARTS, "Once"):
        said = USER | {"role": "tool", "content": content}
        assert text_of(llm, [said], chat_template=PARTS_ONLY).startswith("tool:[Once]")


# -- further keys ------------------------------------------------------------------------------------------


CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}


def test_tool_calls_reach_the_template(llm):
    with_dict = [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    expected = by_huggingface(llm, with_dict, QWEN3_LIKE)
    assert '<call>weather{"city": "Ulm"}' in expected
    as_json = CALL | {"function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
    for said in ({"content": None}, {}, {"content": ""}):
        for call in (CALL, as_json):
            message = {"role": "assistant", "tool_calls": [call], **said}
            assert text_of(llm, [USER, message], chat_template=QWEN3_LIKE) == expected
    assert as_json["function"]["arguments"] == '{"city": "Ulm"}'  # the caller's messages are theirs


def test_a_call_without_arguments_has_none(llm):
    for arguments in ("", None, "{}", {}):
        call = CALL | {"function": {"name": "weather", "arguments": arguments}}
        text = text_of(llm, [{"role": "assistant", "tool_calls": [call]}], chat_template=QWEN3_LIKE)
        assert "<call>weather{}" in text


def test_no_tool_calls_are_none_in_whatever_form(llm):
    template = "{% for m in messages %}{{ m.tool_calls is defined }}{% endfor %}"
    for calls in ([], None, ()):
        assert text_of(llm, [USER | {"tool_calls": calls}], chat_template=template) == "False"


def test_further_keys_reach_the_template(llm):
    template = "{% for m in messages %}{{ m.name }} {{ m.tool_call_id }} {{ m.reasoning_content }}{% endfor %}"
    message = USER | {"name": "Ada", "tool_call_id": "7", "reasoning_content": "hm"}
    assert text_of(llm, [message], chat_template=template) == "Ada 7 hm"


# -- templates that fail -------------------------------------------------------------------------------------


FAILING = {
    "{{ raise_exception('roles must alternate') }}": "TemplateError: roles must alternate",
    "{{ messages[0].content + 1 }}": "TypeError",
    "{{ messages[9].content.text }}": "UndefinedError",
    "{{ messages[0].content.strip(1, 2, 3) }}": "TypeError",
    "{{ messages[0].content.nonesuch() }}": "UndefinedError",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{{ messages[0]['content'].__class__.mro() }}": "SecurityError",
    "{{ '%d' % 'a' }}": "TypeError",
    "{{ ''.join([1]) }}": "TypeError",
    "{{ messages | tojson(indent=messages) }}": "TypeError",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "RecursionError",
    "{% for message in messages %}": "TemplateSyntaxError",
    "{{ messages | nonesuch }}": "TemplateAssertionError",
    "{% if %}": "TemplateSyntaxError",
}


@pytest.mark.parametrize("template", FAILING)
def test_a_template_that_fails_is_named(llm, template):
    tokenizer = llm.get_tokenizer()
    messages = [USER, HALF]
    with pytest.raises(ValueError, match=rf"^messages: the given chat_template fails: {FAILING[template]}") as caught:
        llm.chat(messages, use_tqdm=False, chat_template=template)
    assert repr(messages) in str(caught.value)
    kept, tokenizer.chat_template = tokenizer.chat_template, template
    try:
        with pytest.raises(ValueError, match=rf"^messages: this model's chat template fails: {FAILING[template]}"):
            llm.chat_prompt(messages)
    finally:
        tokenizer.chat_template = kept


def test_an_interrupt_inside_a_template_is_no_mistake_of_it(llm, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(llm.get_tokenizer()), "apply_chat_template", interrupt)
    with pytest.raises(KeyboardInterrupt):
        llm.chat([USER], use_tqdm=False)


def test_a_template_that_makes_no_text_is_named(llm):
    for template in ("{# nothing #}", "{% if false %}{{ messages }}{% endif %}"):
        with pytest.raises(ValueError, match="messages: the given chat_template makes no text of them"):
            llm.chat([USER], use_tqdm=False, chat_template=template)


def test_a_message_that_cannot_be_continued_is_named(llm):
    drops = "{{ messages[0].content }}"
    options = {"add_generation_prompt": False, "continue_final_message": True}
    with pytest.raises(ValueError, match="the given chat_template fails: ValueError: continue_final_message"):
        text_of(llm, [USER, HALF], chat_template=drops, **options)


def test_a_template_may_be_chosen_by_name_where_a_model_has_several(llm):
    tokenizer = llm.get_tokenizer()
    kept, tokenizer.chat_template = tokenizer.chat_template, {"default": "d", "tool_use": "{{ tools | length }}"}
    try:
        assert text_of(llm, [USER]) == "d"
        assert text_of(llm, [USER], tools=[{"name": "f"}]) == text_of(llm, [USER], tools=[weather]) == "1"
        assert text_of(llm, [USER], tools=[]) == "d"
        assert text_of(llm, [USER], chat_template="tool_use", tools=[weather] * 2) == "2"
        tokenizer.chat_template = {"a": "x", "b": "y"}
        with pytest.raises(ValueError, match="multiple chat templates"):
            text_of(llm, [USER])
    finally:
        tokenizer.chat_template = kept


# -- ways to the content, and values in it ---------------------------------------------------------------------

PATHS = {
    "a variable": "{% set c = messages[0].content %}{% for p in c %}{{ p.text }}\n{% endfor %}",
    "map": "{% for m in messages %}{{ m.content | map(attribute='text') | join('\n') }}{% endfor %}",
    "an index": "{{ messages[0].content[0].text }}",
    "an index in a sum": "{{ 'user: ' + messages[0]['content'][0]['text'] }}",
    "a macro": "{% macro w(x) %}{% for p in x %}{{ p.text | trim | lower }}\n{% endfor %}{% endmacro %}"
    "{{ w(messages[0].content) }}",
    "text": "{{ messages[0].content }}",
    "lower case": "{{ 'user: ' + messages[0].content | trim | lower }}",
    "text by a variable": "{% set c = messages[0]['content'] %}{{ c.split('</think>')[-1] }}",
}


@pytest.mark.parametrize("template", PATHS.values(), ids=PATHS)
def test_no_text_is_lost_by_whatever_path_a_template_reads_it(llm, template):
    whole, one = "once\nupon", [{"type": "text", "text": "once\nupon"}]
    parts = [{"type": "text", "text": "once"}, {"type": "text", "text": "upon"}]
    for content in (whole, one, parts, tuple(parts)):
        text = text_of(llm, [USER | {"content": content}], chat_template=template)
        assert text.removeprefix("user: ").strip() == whole


def test_each_message_gets_the_form_that_is_read_in_its_place(llm):
    template = "{{ messages[0].content + ';' }}{% for p in messages[1].content %}{{ p.text }}{% endfor %}"
    for first in ("hello", [{"type": "text", "text": "hello"}]):
        for second in ("you", [{"type": "text", "text": "you"}]):
            said = [USER | {"content": first}, USER | {"content": second}]
            assert text_of(llm, said, chat_template=template) == "hello;you"


def test_parts_that_a_template_shows_in_no_form_are_refused(llm):
    template = "user:{% for p in messages[0].content %}{{ p.value }}{% endfor %}"
    with pytest.raises(ValueError, match="shows the text of this 'content' neither as parts nor as a string"):
        text_of(llm, [USER | {"content": PARTS}], chat_template=template)


def test_parts_for_a_template_that_fails_are_its_failure(llm):
    with pytest.raises(ValueError, match="the given chat_template fails: TemplateError: never"):
        text_of(llm, [USER | {"content": PARTS}], chat_template="{{ messages[0].content ~ raise_exception('never') }}")


def test_text_written_as_json_is_shown(llm):
    template = "{{ messages[0].content | tojson }}"
    assert text_of(llm, [USER | {"role": "tool", "content": PARTS}], chat_template=template) == '"Once\\nupon"'


@dataclasses.dataclass
class Place:
    city: str


CARRIED = {
    "NumPy number": (np.int64(3), 3),
    "NumPy bool": (np.bool_(False), False),
    "NumPy array": (np.array([[1, 2]]), [[1, 2]]),
    "PyTorch number": (torch.tensor(2.5), 2.5),
    "tensor": (torch.tensor([1, 2]), [1, 2]),
    "nested": ({"a": (np.float32(0.5), [None])}, {"a": (0.5, [None])}),
    "dataclass": (Place("Ulm"), {"city": "Ulm"}),
}
NOT_CARRIED = {
    "date": datetime.date(2024, 1, 1),
    "set": {1},
    "bytes": b"a",
    "function": weather,
    "complex": 1j,
    "Tensor": torch.tensor([1], device="meta"),
    "datetime64": np.datetime64("2024-01-01"),
}


def in_every_place(value):
    call = {"function": {"name": "f", "arguments": {"x": value}}}
    return {
        "chat_template_kwargs['x']": ([USER], {"chat_template_kwargs": {"x": value}}, "{{ x }}"),
        "tools[0]['x']": ([USER], {"tools": [{"x": value}]}, "{{ tools[0].x }}"),
        "messages: 'x'": ([USER | {"x": value}], {}, "{{ messages[0].x }}"),
        "messages: 'tool_calls'[0]['function']['arguments']['x']": (
            [USER | {"tool_calls": [call]}],
            {},
            "{{ messages[0].tool_calls[0].function.arguments.x }}",
        ),
    }


@pytest.mark.parametrize(("value", "expected"), CARRIED.values(), ids=CARRIED)
def test_values_reach_the_template_as_pythons_own(llm, value, expected):
    for messages, options, template in in_every_place(value).values():
        assert text_of(llm, messages, chat_template=template, **options) == str(expected)


@pytest.mark.parametrize("value", NOT_CARRIED.values(), ids=NOT_CARRIED)
def test_a_value_that_no_template_can_read_is_named(llm, value):
    for wrapped, place in ((value, ""), ([value], "[0]"), ({"k": value}, "['k']")):
        for name, (messages, options, template) in in_every_place(wrapped).items():
            with pytest.raises(ValueError, match=f"^{re.escape(name + place)} must be text") as caught:
                text_of(llm, messages, chat_template=template, **options)
            assert re.search(r"got a \w+: ", str(caught.value))


def test_what_contains_itself_is_refused(llm):
    endless: list = []
    endless.append(endless)
    with pytest.raises(ValueError, match="must not be nested without end"):
        text_of(llm, [USER], chat_template_kwargs={"x": endless})


def test_keys_must_be_strings_but_for_the_templates_own_variables(llm):
    with pytest.raises(ValueError, match=r"messages: 'x' must be.* got a dict"):
        text_of(llm, [USER | {"x": {1: 2}}])
    options = {"chat_template": "{{ x[1] }}", "chat_template_kwargs": {"x": {1: 2}}}
    assert text_of(llm, [USER], **options) == "2"


@pytest.mark.parametrize("calls", [np.array([]), np.array([CALL]), torch.tensor([1, 2])], ids=repr)
def test_tool_calls_in_an_array_are_no_list(llm, calls):
    with pytest.raises(ValueError, match="messages: 'tool_calls' must be a list, got"):
        text_of(llm, [USER | {"tool_calls": calls}])
    call = {"function": {"name": "f", "arguments": calls}}
    with pytest.raises(ValueError, match="messages: 'arguments' of a tool call must be an object, got"):
        text_of(llm, [USER | {"tool_calls": [call]}])


def test_tools_may_come_in_an_array(llm):
    template = "{{ tools | length if tools else 0 }}"
    for count in (0, 2):
        tools = np.array([{"name": "f"}, weather][:count], dtype=object)
        assert text_of(llm, [USER], chat_template=template, tools=tools) == str(count)
    with pytest.raises(ValueError, match="tools must be JSON schemas"):
        text_of(llm, [USER], tools=np.array([[1, 2]]))
