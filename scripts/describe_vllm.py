"""Write down what vLLM's constructors, server and requests take: the test data of ``tests/test_vllm_arguments.py``.

    python scripts/describe_vllm.py SHA256-OF-THE-WHEEL > tests/data/vllm_0_33_signatures.json

Run it in an environment with vLLM and a device that it supports. Only names, types and defaults are taken.
"""

import dataclasses
import inspect
import json
import re
import sys
import typing
from importlib.metadata import version
from typing import Any

from pydantic.fields import FieldInfo
from vllm.config.speculative import SpeculativeConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.common.cli_args import make_arg_parser
from vllm.entrypoints.llm import LLM
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.sampling_params import SamplingParams
from vllm.utils.argparse_utils import FlexibleArgumentParser

Description = dict[str, dict[str, Any]]
_MISSING = (inspect.Parameter.empty, dataclasses.MISSING)


def entry(annotation: Any, default: Any) -> dict[str, Any]:
    """Return one argument's type and, if it has one, its default."""
    if isinstance(default, FieldInfo):
        made = default.default_factory  # may be random, as a request's id is; an empty list is not
        value = default.default if made is None else [] if made is list else made.__name__
        default = dataclasses.MISSING if default.is_required() else value
    shown = annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
    described = {"type": re.sub(r" at 0x[0-9a-f]+", "", shown)}
    if not any(default is missing for missing in _MISSING):
        plain = isinstance(default, bool | int | float | str | list | dict | None)
        described["default"] = default if plain else type(default).__name__
    return described


def of_callable(function: Any) -> Description:
    """Describe the named parameters of a function or class."""
    parameters = inspect.signature(function).parameters
    return {
        name: entry(each.annotation, each.default)
        for name, each in parameters.items()
        if name != "self" and not name.startswith("_") and each.kind != inspect.Parameter.VAR_KEYWORD
    }


def of_dataclass(kind: Any) -> Description:
    """Describe the fields of a dataclass that may be given."""
    return {
        each.name: entry(
            each.type,
            each.default if each.default_factory is dataclasses.MISSING else each.default_factory(),
        )
        for each in dataclasses.fields(kind)
        if each.init and not each.name.startswith("_")
    }


def of_request(kind: Any) -> Description:
    """Describe the fields of a request's body."""
    return {name: entry(each.annotation, each) for name, each in kind.model_fields.items()}


def of_server() -> Description:
    """Describe the flags of ``vllm serve``: the setting behind each, and for a switch the flag that turns it off."""
    described: Description = {}
    for action in make_arg_parser(FlexibleArgumentParser())._actions:
        negative = getattr(action, "negative_option_strings", set())
        on = [flag for flag in action.option_strings if flag.startswith("--") and flag not in negative]
        off = [flag for flag in action.option_strings if flag in negative]
        if on and action.dest != "help":
            described[on[0]] = {"dest": action.dest} | ({"off": off[0]} if off else {})
    return described


def dump(description: dict[str, Description]) -> str:
    """Write one line an entry, so that a new version of vLLM shows as a readable difference."""
    parts = []
    for part, entries in description.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in sorted(entries.items()))
        parts.append(f"{json.dumps(part)}: {{\n{lines}\n}}")
    return "{\n" + ",\n".join(parts) + "\n}"


if __name__ == "__main__":
    source = {"package": "vllm", "version": version("vllm"), "index": "PyPI", "wheel_sha256": sys.argv[1]}
    source["made_by"] = "scripts/describe_vllm.py"
    print(
        dump(
            {
                "source": source,  # type: ignore[dict-item]
                "LLM": of_callable(LLM.__init__),
                "EngineArgs": of_dataclass(EngineArgs),
                "SamplingParams": of_callable(SamplingParams),
                "SpeculativeConfig": of_dataclass(SpeculativeConfig),
                "CompletionRequest": of_request(CompletionRequest),
                "ChatCompletionRequest": of_request(ChatCompletionRequest),
                "serve": of_server(),
            }
        )
    )
