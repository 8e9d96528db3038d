"""How figures and widgets read the engine's own record (``record_history=True``)."""

from folovllm.course.style import BLUE, ORANGE
from folovllm.engine.history import SequenceRecord, StepRecord
from folovllm.llm import LLM

PHASES = {"prefill": (ORANGE, "..."), "decode": (BLUE, "///")}
"""Colour and hatch of a step in which a prompt is read, and of one in which a token is added."""


def phase_of(record: SequenceRecord) -> str | None:
    """Return what a sequence did in a step: "prefill", "decode" or, if it was not scheduled, None."""
    if not record.num_scheduled_tokens:
        return None
    adds_one = record.num_scheduled_tokens == 1 + record.num_draft_tokens
    return "decode" if adds_one and record.num_output_tokens > 1 else "prefill"


def recorded(llm: LLM) -> list[StepRecord]:
    """Return the steps that an engine recorded; ``ValueError`` if it kept no record."""
    if llm.llm_engine.history is None:
        raise ValueError("this LLM keeps no record of its steps: make it with record_history=True")
    return llm.llm_engine.history.steps
