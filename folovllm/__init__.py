"""FoloVLLM: a small, real LLM inference engine with vLLM's names, made to be read.

Importing it is cheap: PyTorch and transformers are imported when something that needs them is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from folovllm.collector import collector_paused

if TYPE_CHECKING:
    from folovllm.config import (
        CacheConfig as CacheConfig,
    )
    from folovllm.config import (
        EngineConfig as EngineConfig,
    )
    from folovllm.config import (
        ModelConfig as ModelConfig,
    )
    from folovllm.config import (
        SchedulerConfig as SchedulerConfig,
    )
    from folovllm.engine.llm_engine import LLMEngine as LLMEngine
    from folovllm.llm import LLM as LLM
    from folovllm.model_loader import ModelLoader as ModelLoader
    from folovllm.model_loader import get_model_and_tokenizer as get_model_and_tokenizer
    from folovllm.outputs import (
        CompletionOutput as CompletionOutput,
    )
    from folovllm.outputs import (
        Logprob as Logprob,
    )
    from folovllm.outputs import (
        RequestMetrics as RequestMetrics,
    )
    from folovllm.outputs import (
        RequestOutput as RequestOutput,
    )
    from folovllm.request import (
        Request as Request,
    )
    from folovllm.request import (
        RequestStatus as RequestStatus,
    )
    from folovllm.request import (
        Sequence as Sequence,
    )
    from folovllm.request import (
        SequenceData as SequenceData,
    )
    from folovllm.request import (
        SequenceStatus as SequenceStatus,
    )
    from folovllm.sampling_params import BeamSearchParams as BeamSearchParams
    from folovllm.sampling_params import SamplingParams as SamplingParams
    from folovllm.sampling_params import SamplingType as SamplingType
    from folovllm.sampling_params import StructuredOutputsParams as StructuredOutputsParams

__version__ = "0.1.0"

_HOME = {
    "BeamSearchParams": "folovllm.sampling_params",
    "CacheConfig": "folovllm.config",
    "CompletionOutput": "folovllm.outputs",
    "EngineConfig": "folovllm.config",
    "LLM": "folovllm.llm",
    "LLMEngine": "folovllm.engine.llm_engine",
    "Logprob": "folovllm.outputs",
    "ModelConfig": "folovllm.config",
    "ModelLoader": "folovllm.model_loader",
    "Request": "folovllm.request",
    "RequestMetrics": "folovllm.outputs",
    "RequestOutput": "folovllm.outputs",
    "RequestStatus": "folovllm.request",
    "SamplingParams": "folovllm.sampling_params",
    "SamplingType": "folovllm.sampling_params",
    "SchedulerConfig": "folovllm.config",
    "Sequence": "folovllm.request",
    "SequenceData": "folovllm.request",
    "SequenceStatus": "folovllm.request",
    "StructuredOutputsParams": "folovllm.sampling_params",
    "get_model_and_tokenizer": "folovllm.model_loader",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'folovllm' has no attribute {name!r}")
    with collector_paused():
        value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
