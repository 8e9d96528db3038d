"""What ``chat`` makes of a conversation; the oracle is HuggingFace's own ``apply_chat_template``."""

import copy

import pytest

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
