"""From a conversation to the text that a model was trained to see: its chat template, a program in Jinja.

(vLLM: ``renderers/hf.py``, ``renderers/chat_utils/``.)
"""

import dataclasses
import inspect
import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import get_json_schema

from folovllm.validation import items, plain, true_or_false

Message = dict[str, Any]
Tool = dict[str, Any] | Callable[..., Any]

_NOT_FOR_THE_TEMPLATE = {*inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters} - {"documents"} | {
    "messages"
}


def list_conversations(messages: Sequence[Message] | Sequence[Sequence[Message]]) -> list[Sequence[Message]]:
    """Return one conversation or several as a list."""
    each = _listed(messages)
    return [each] if isinstance(each[0], dict) else each


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    chat_template: str | None,
    chat_template_kwargs: dict[str, Any] | None,
    add_generation_prompt: bool,
    continue_final_message: bool,
    tools: Sequence[Tool] | None,
) -> str:
    """Return a conversation as text. The arguments are those of :meth:`folovllm.LLM.chat`, and checked here.

    Whatever goes wrong inside a template is a ValueError that says which template it was.
    """
    conversation = [_checked(message) for message in _listed(messages)]
    options = _check_options(chat_template_kwargs, add_generation_prompt, continue_final_message)
    schemas: list[Any] | None = _describe(tools)
    whose = "this model's chat template" if chat_template is None else "the given chat_template"
    template = _find_template(tokenizer, chat_template, schemas)

    def render(said: list[Message], **changed: Any) -> str:
        passed: dict[str, Any] = {"tools": schemas, "chat_template": template, "tokenize": False}
        return str(tokenizer.apply_chat_template(said, **passed, **options | changed))

    shaped = _shape_content(conversation, lambda said: render(said, continue_final_message=False), whose)
    try:
        text = render(shaped)
    except Exception as error:  # a template is a program: it can fail in any way
        raise ValueError(f"messages: {whose} fails: {type(error).__name__}: {error}; got {messages!r}") from error
    if not text:
        raise ValueError(f"messages: {whose} makes no text of them; got {messages!r}")
    return text


# -- what is given ---------------------------------------------------------------------------------------


def _listed(messages: object) -> list[Any]:
    each = items(messages)
    if not each:
        raise ValueError(f"messages must be a non-empty list of messages or of conversations, got {messages!r}")
    return each


def _checked(message: object) -> Message:
    """Return a copy of a message, its tool calls in one form; a ValueError for what no template could read."""
    if not isinstance(message, dict) or "role" not in message:
        raise ValueError(f"messages must be dicts with 'role' and 'content', got {message!r}")
    if not isinstance(message["role"], str):
        raise ValueError(f"messages: 'role' must be a string, got {message!r}")
    calls = message.get("tool_calls")
    if not isinstance(calls, list | tuple | None):
        raise ValueError(f"messages: 'tool_calls' must be a list, got {calls!r}")
    if not calls or message.get("content") is not None:
        _check_content(message)
    checked = dict(message)
    if calls:
        checked["tool_calls"] = [_with_parsed_arguments(call) for call in calls]
    else:  # none is the same as an empty list, but many templates only ask whether there is one
        checked.pop("tool_calls", None)
    return {key: _carried(f"messages: {key!r}", value) for key, value in checked.items()}


def _check_content(message: Message) -> None:
    if "content" not in message:
        raise ValueError(f"messages must be dicts with 'role' and 'content' (or 'tool_calls'), got {message!r}")
    content = message["content"]
    if not isinstance(content, str | list | tuple):
        raise ValueError(f"messages: 'content' must be a string or a list of text parts, got {message!r}")
    for part in () if isinstance(content, str) else content:
        is_text = isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        if not is_text:
            raise ValueError(
                "messages: the parts of a 'content' must be {'type': 'text', 'text': str}, as this engine reads "
                f"text only, got {reprlib.repr(part)}"
            )


def _with_parsed_arguments(call: object) -> dict[str, Any]:
    """Return a tool call with its arguments as a dict: OpenAI's are JSON, which templates would quote once more."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise ValueError(f"messages: 'tool_calls' must be dicts with a 'function', got {call!r}")
    arguments = function.get("arguments")
    try:
        arguments = json.loads(arguments or "{}") if isinstance(arguments, str | None) else arguments
    except json.JSONDecodeError as error:
        raise ValueError(f"messages: 'arguments' of a tool call must be JSON, got {arguments!r}: {error}") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"messages: 'arguments' of a tool call must be an object, got {arguments!r}")
    parsed = function | {"arguments": arguments}
    return call | {"function": parsed} if "function" in call else parsed


def _check_options(
    chat_template_kwargs: dict[str, Any] | None, add_generation_prompt: bool, continue_final_message: bool
) -> dict[str, Any]:
    starts = true_or_false("add_generation_prompt", add_generation_prompt)
    continues = true_or_false("continue_final_message", continue_final_message)
    if starts and continues:
        raise ValueError(
            "add_generation_prompt must be False with continue_final_message=True: the answer either starts a new "
            "message or continues the last one, got True for both"
        )
    variables = {} if chat_template_kwargs is None else chat_template_kwargs
    if not isinstance(variables, dict) or not all(isinstance(name, str) for name in variables):
        raise ValueError(f"chat_template_kwargs must be a dict with names of variables, got {variables!r}")
    for name in variables:
        if name in _NOT_FOR_THE_TEMPLATE:
            raise ValueError(
                f"chat_template_kwargs must be variables of the template's own, got {name!r}, which is an argument of "
                "chat or of the engine"
            )
    carried = {name: _carried(f"chat_template_kwargs[{name!r}]", v, object) for name, v in variables.items()}
    return {**carried, "add_generation_prompt": starts, "continue_final_message": continues}


def _describe(tools: Sequence[Tool] | None) -> list[dict[str, Any]] | None:
    """Return the tools as JSON schemas: dicts as they are, functions by their type hints and docstring."""
    listed = [] if tools is None else items(tools)
    if listed is None:
        raise ValueError(f"tools must be a list of JSON schemas or functions, got {tools!r}")
    schemas: list[dict[str, Any]] = []
    for tool in listed:
        if not isinstance(tool, dict) and not inspect.isroutine(tool):
            raise ValueError(f"tools must be JSON schemas (dicts) or functions, got {tool!r}")
        try:
            schema = tool if isinstance(tool, dict) else get_json_schema(tool)
        except Exception as error:
            raise ValueError(f"tools: {tool!r} needs type hints and a docstring that describe it: {error}") from error
        schemas.append(_carried(f"tools[{len(schemas)}]", schema))
    return schemas or None


def _carried(name: str, value: Any, keys: type = str) -> Any:
    """Return a value in Python's own types, which is all that a template gets to see.

    Transformers would write the name of any other type in its place: ``<date>``.
    """
    value = plain(value)
    if value is None or isinstance(value, str | int | float):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif callable(getattr(value, "model_dump", None)):  # Pydantic's
        value = value.model_dump()
    listed = items(value)
    try:
        if isinstance(value, Mapping) and all(isinstance(key, keys) for key in value):
            return {key: _carried(f"{name}[{key!r}]", each, keys) for key, each in value.items()}
        if listed is not None:
            carried = [_carried(f"{name}[{i}]", each, keys) for i, each in enumerate(listed)]
            return tuple(carried) if isinstance(value, tuple) else carried
    except RecursionError:
        raise ValueError(f"{name} must not be nested without end, got {reprlib.repr(value)}") from None
    raise ValueError(
        f"{name} must be text, a number, True, False, None, or a list or dict (its keys strings) of such, which is "
        f"what a template can read, got a {type(value).__name__}: {reprlib.repr(value)}"
    )


def _find_template(
    tokenizer: PreTrainedTokenizerBase, chat_template: str | None, tools: list[dict[str, Any]] | None
) -> str:
    if not isinstance(chat_template, str | None):
        raise ValueError(f"chat_template must be the text of a Jinja template, got {chat_template!r}")
    if chat_template is None and not tokenizer.chat_template:
        raise ValueError(
            "messages: this model's tokenizer has no chat template; give one as chat_template, or use generate with "
            "a text prompt"
        )
    template: str = tokenizer.get_chat_template(chat_template, tools)
    if template == chat_template and "{" not in template:
        raise ValueError(
            "chat_template must be the text of a Jinja template, not a file's name (and without any {{ }} every "
            f"conversation would look the same), got {chat_template!r}"
        )
    return template


# -- what the template gets --------------------------------------------------------------------------------

_START, _END = "\x02", "\x03"
"""Around a mark. Templates neither strip these nor change their case; JSON and a list's repr escape them."""


def _shape_content(conversation: list[Message], render: Callable[[list[Message]], str], whose: str) -> list[Message]:
    """Return the messages, each with its content in the form that the template reads.

    A template is a program, so the way to know is to run it, with marks in place of the texts: first with the content
    as it is given (what a tool returned: as text), then with all of it as text, its parts joined by line breaks, then
    as one part. A string that no form shows is left out on purpose; parts must not be lost in silence.
    """
    shaped = [_as_text(said) if said["role"] == "tool" else _as_given(said) for said in conversation]
    lost = set(range(len(conversation))) - _shown(shaped, render)
    for form in (_as_given, _as_text, _as_one_part, _as_text):  # what no form shows stays text
        if lost:
            shaped = [form(said) if i in lost else shaped[i] for i, said in enumerate(conversation)]
            lost -= _shown(shaped, render)
    for i in lost:
        said = conversation[i]
        given_as_parts = isinstance(said.get("content"), list | tuple) and shaped[i]["content"].strip()
        if given_as_parts and "tool_calls" not in said and i not in _shown(shaped, render, escaped=True):
            raise ValueError(
                f"messages: {whose} shows the text of this 'content' neither as parts nor as a string, got {said!r}"
            )
    return shaped


def _as_given(message: Message) -> Message:
    return message | {"content": message.get("content") or ""}  # templates add it to other text


def _as_text(message: Message) -> Message:
    content = message.get("content") or ""
    return message | {"content": content if isinstance(content, str) else "\n".join(part["text"] for part in content)}


def _as_one_part(message: Message) -> Message:
    return message | {"content": [{"type": "text", "text": _as_text(message)["content"]}]}


def _shown(conversation: list[Message], render: Callable[[list[Message]], str], escaped: bool = False) -> set[int]:
    """Return which messages' texts a template writes, every part of them: none of those that it fails on.

    ``escaped``: also those that it writes as JSON or the like, and all of those that it fails on.
    """
    marks: list[list[str]] = []
    marked = []
    for i, message in enumerate(conversation):
        content = message["content"]
        parts = [] if isinstance(content, str) else content
        marks.append([f"{8140719 + i}{5550000 + j}" for j in range(len(parts) or 1)])
        texts = [f"{_START}{mark}{_END}" for mark in marks[i]]
        in_parts = [part | {"text": text} for part, text in zip(parts, texts, strict=False)]
        marked.append(message | {"content": in_parts or texts[0]})
    try:
        text = render(marked)
    except Exception:  # this form is not for this template; what is wrong with it shows when the texts are rendered
        return set(range(len(conversation))) if escaped else set()
    around = ("", "") if escaped else (_START, _END)
    return {i for i, each in enumerate(marks) if all(mark.join(around) in text for mark in each)}
