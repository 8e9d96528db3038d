"""From a conversation to the text that a model was trained to see: its chat template, a program in Jinja.

(vLLM: ``renderers/hf.py``, ``renderers/chat_utils/``.)
"""

import inspect
import json
import re
import reprlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Environment, nodes
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import get_json_schema

from folovllm.validation import items, true_or_false

Message = dict[str, Any]
Tool = dict[str, Any] | Callable[..., Any]

_NOT_FOR_THE_TEMPLATE = {*inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters} - {"documents"} | {
    "messages"
}
_GENERATION_TAG = re.compile(r"{%-?\s*(end)?generation\s*-?%}")
"""Transformers' own tag, which marks what an assistant said; it writes nothing."""


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
    try:
        shaped = [_with_shaped_content(message, template) for message in conversation]
        text = tokenizer.apply_chat_template(shaped, tools=schemas, chat_template=template, tokenize=False, **options)
    except Exception as error:  # a template is a program: it can fail in any way
        raise ValueError(f"messages: {whose} fails: {type(error).__name__}: {error}; got {messages!r}") from error
    if not text:
        raise ValueError(f"messages: {whose} makes no text of them; got {messages!r}")
    return str(text)


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
    if not calls or message.get("content") is not None:
        _check_content(message)
    checked = dict(message)
    if calls:
        if not isinstance(calls, list | tuple):
            raise ValueError(f"messages: 'tool_calls' must be a list, got {calls!r}")
        checked["tool_calls"] = [_with_parsed_arguments(call) for call in calls]
    else:  # none is the same as an empty list, but many templates only ask whether there is one
        checked.pop("tool_calls", None)
    return checked


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
    arguments = function.get("arguments") or {}
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
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
    return {**variables, "add_generation_prompt": starts, "continue_final_message": continues}


def _describe(tools: Sequence[Tool] | None) -> list[dict[str, Any]] | None:
    """Return the tools as JSON schemas: dicts as they are, functions by their type hints and docstring."""
    listed = [] if tools is None else items(tools)
    if listed is None:
        raise ValueError(f"tools must be a list of JSON schemas or functions, got {tools!r}")
    schemas = []
    for tool in listed:
        if not isinstance(tool, dict) and not inspect.isroutine(tool):
            raise ValueError(f"tools must be JSON schemas (dicts) or functions, got {tool!r}")
        try:
            schemas.append(tool if isinstance(tool, dict) else get_json_schema(tool))
        except Exception as error:
            raise ValueError(f"tools: {tool!r} needs type hints and a docstring that describe it: {error}") from error
    return schemas or None


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


def _with_shaped_content(message: Message, template: str) -> Message:
    """Return a message with its content in the form that the template reads, which is vLLM's.

    Text parts are joined by line breaks, unless the template takes parts; what a tool returned is joined wherever
    the template takes text. No content is an empty one: templates add it to other text.
    """
    takes_parts, takes_text = _accepted_content(template)
    content = message.get("content") or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    if takes_text and (isinstance(content, str) or not takes_parts or message["role"] == "tool"):
        return message | {"content": "\n".join(part["text"] for part in parts)}
    return message | {"content": parts}


@lru_cache
def _accepted_content(template: str) -> tuple[bool, bool]:
    """Say whether a template takes a list of parts as content, and whether it takes text.

    One that loops over the content takes parts. If it does not ask first whether it is a string, it takes
    nothing else: it would loop over the letters.
    """
    tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION_TAG.sub("", template))
    takes_parts = any(_is_content(loop.iter) for loop in tree.find_all(nodes.For))
    asks = any(test.name == "string" and _is_content(test.node) for test in tree.find_all(nodes.Test))
    return takes_parts, asks or not takes_parts


def _is_content(node: nodes.Node | None) -> bool:
    match node:
        case (
            nodes.Getattr(attr="content") | nodes.Name(name="content") | nodes.Getitem(arg=nodes.Const(value="content"))
        ):
            return True
        case nodes.Filter(node=inner) | nodes.Getitem(node=inner, arg=nodes.Slice()):
            return _is_content(inner)
    return False
