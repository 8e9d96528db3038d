"""The front door: prompts in, text out.

(vLLM: ``entrypoints/llm.py``.)
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from folovllm.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from folovllm.engine.chat import Message, Tool, list_conversations, render_chat
from folovllm.engine.input_processor import Prompt, TokensPrompt, list_prompts
from folovllm.engine.llm_engine import LLMEngine
from folovllm.engine.metrics import Metric
from folovllm.engine.shared_engine import Params, SharedEngine
from folovllm.model_loader import SETTINGS_OF_THE_WEIGHTS, recommended_sampling_params
from folovllm.outputs import RequestOutput
from folovllm.progress_bar import ProgressBar
from folovllm.sampling_params import BeamSearchParams, SamplingParams
from folovllm.validation import did_you_mean, items

_OF_THE_LOADED_MODEL = ("tokenizer", "trust_remote_code", *SETTINGS_OF_THE_WEIGHTS)


def make_engine_config(model: str | None = None, **settings: Any) -> EngineConfig:
    """Sort flat settings (``block_size=8, dtype="bfloat16"``) into the configs that have a field of that name.

    (vLLM: ``EngineArgs.create_engine_config``.)
    """
    parts: dict[type, dict[str, Any]] = {
        ModelConfig: {"model": model},
        CacheConfig: {},
        SchedulerConfig: {},
        EngineConfig: {},
    }
    owner = {field.name: part for part in parts for field in dataclasses.fields(part) if field.init}
    for name in ("model_config", "cache_config", "scheduler_config"):
        del owner[name]
    for name, value in settings.items():
        if name not in owner:
            hint = did_you_mean(name, owner)
            raise ValueError(f"LLM: there is no setting {name!r}{hint} (known: {', '.join(sorted(owner))})")
        parts[owner[name]][name] = value
    return EngineConfig(
        ModelConfig(**parts[ModelConfig]),
        CacheConfig(**parts[CacheConfig]),
        SchedulerConfig(**parts[SchedulerConfig]),
        **parts[EngineConfig],
    )


class LLM:
    """A model that is ready to generate.

    model: a hub name, a folder or a GGUF file; by default ``FOLOVLLM_MODEL``, else the bundled model.
    settings: any field of ``ModelConfig``, ``CacheConfig``, ``SchedulerConfig`` or ``EngineConfig``.

    An ``LLM`` may be used from several threads, and from inside a loop over :meth:`stream`: whoever
    runs a step runs it for all, and everybody gets their own outputs.
    """

    def __init__(self, model: str | None = None, **settings: Any) -> None:
        self._set_engine(LLMEngine(make_engine_config(model, **settings)))

    @classmethod
    def from_engine_config(
        cls,
        config: EngineConfig,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> "LLM":
        """Make one from a built config, and from a model and tokenizer if they are loaded already."""
        llm = cls.__new__(cls)
        llm._set_engine(LLMEngine(config, model, tokenizer))
        return llm

    def with_settings(self, **settings: Any) -> "LLM":
        """Return another LLM over the same loaded model, to compare settings without loading it twice.

        settings: as for ``LLM()``, less those that belong to the loaded weights (``ValueError``). What is
        not given has its default, not this LLM's value. Each has its own KV cache and requests.
        """
        for name in settings.keys() & {"model", *_OF_THE_LOADED_MODEL}:
            raise ValueError(f"with_settings: {name!r} belongs to the loaded model and cannot be {settings[name]!r}")
        engine = self.llm_engine
        loaded = engine.config.model_config
        kept = {name: getattr(loaded, name) for name in _OF_THE_LOADED_MODEL}
        config = make_engine_config(loaded.model, **kept, **settings)
        return LLM.from_engine_config(config, engine.model_runner.model, engine.tokenizer)

    def _set_engine(self, engine: LLMEngine) -> None:
        self.llm_engine = engine
        self._shared = SharedEngine(engine)

    @property
    def is_batch_invariant(self) -> bool:
        """Say whether a sequence's logits are a function of its tokens alone, to the last bit.

        So with the engine's own forward pass (float32 on a CPU, Llama's family): whoever else is in the batch, however
        prompts are cut into chunks, whatever is found in the cache, recomputed, swapped or guessed. Elsewhere the last
        bits of a result depend on how many rows a matrix product has. (vLLM: ``VLLM_BATCH_INVARIANT``, for GPUs.)
        """
        return self.llm_engine.model_runner.is_batch_invariant

    def get_metrics(self) -> list[Metric]:
        """Return what the engine has counted since it started, and how full it is now (vLLM's name).

        Requests, tokens, tokens found in the prefix cache, preemptions, drafts proposed and accepted: names are
        vLLM's, less their prefix ``vllm:``. ``{m.name: m.value for m in llm.get_metrics()}`` makes a dict of them.
        """
        with self._shared.exclusively():
            return self.llm_engine.get_metrics()

    def reset_prefix_cache(self) -> None:
        """Forget remembered keys and values, so that the next prompts are computed in full (vLLM's name).

        Where the model's own weights were changed, make another LLM over it, with :meth:`with_settings`.
        """
        with self._shared.exclusively():
            self.llm_engine.reset_prefix_cache()

    def compute_logits(self, prompt: Prompt) -> Tensor:
        """Return the logits of the token that would follow ``prompt``: [vocab], float32.

        One forward pass beside all requests; what it computes is not kept. (HuggingFace: ``model(ids).logits[0, -1]``.)
        """
        with self._shared.exclusively():
            return self.llm_engine.compute_logits(prompt)

    def get_tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer that the engine uses."""
        return self.llm_engine.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """Return what the model's authors recommend in its generation config, and our defaults for the rest.

        Of that config, ``temperature``, ``top_p``, ``top_k``, ``min_p``, ``repetition_penalty`` and ``max_new_tokens``
        (``max_tokens`` here) count; ``do_sample`` does not, as in vLLM. A ValueError for values out of range.
        """
        return recommended_sampling_params(self.llm_engine.model_runner.model)

    # -- generating ----------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Continue every prompt, all in one batch; the results have the order of the prompts.

        prompts: one or a list of: text, token ids, ``{"prompt": text}`` or ``{"prompt_token_ids": ids}``. Token
            ids are a sequence of ints, or an array or tensor of one dimension; one of two is a prompt a row, and
            padding in it is read like all else.
        sampling_params: one for all, or one each; default ``SamplingParams()``, the same for every model. (vLLM
            takes what :meth:`get_default_sampling_params` returns.)
        use_tqdm: show a progress bar on stderr.

        A ValueError, an exception or an interrupt ends these requests and leaves the engine usable; requests of other
        callers go on. What goes wrong while a request runs is raised here, for whoever made it.
        """
        each = list_prompts(prompts)
        return self._run_all(each, _one_each(sampling_params, len(each)), use_tqdm)

    def beam_search(
        self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams, *, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        """Search for the most probable continuations; ``outputs`` are the ``beam_width`` best, best first.

        Texts are ranked by ``cumulative_logprob / length ** length_penalty``. Those that reach EOS are
        set aside and compete in the end with those that reached ``max_tokens``; the search ends early
        only when nothing better can come.
        """
        if not isinstance(params, BeamSearchParams):
            raise ValueError(f"params must be a BeamSearchParams, got {params!r}")
        each = list_prompts(prompts)
        return self._run_all(each, [params] * len(each), use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        chat_template: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Tool] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation, or each of a list of them.

        messages: ``[{"role": "user", "content": "Hello"}]``, put into words by a chat template. Content may be a
            list of ``{"type": "text", "text": ...}``; further keys (``tool_calls``, ``name``...) go to the template.
        chat_template: the text of a Jinja template; default the model's.
        chat_template_kwargs: variables for it, such as Qwen3's ``{"enable_thinking": False}``. Those that it does
            not read, and ``tools`` that it does not read, change nothing.
        add_generation_prompt: end with the header of the assistant's answer.
        continue_final_message: let the model go on with the last message instead; the other must be False then.
        tools: what the model may call: JSON schemas, or functions with type hints and a docstring.

        A ValueError for all that goes wrong inside the template.
        """
        prompts = [
            self.chat_prompt(
                conversation,
                chat_template=chat_template,
                chat_template_kwargs=chat_template_kwargs,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
            )
            for conversation in list_conversations(messages)
        ]
        return self.generate(prompts, sampling_params, use_tqdm=use_tqdm)

    def chat_prompt(
        self,
        messages: Sequence[Message],
        *,
        chat_template: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Tool] | None = None,
    ) -> TokensPrompt:
        """Return a conversation as the model expects to see it, ready for :meth:`generate` or :meth:`stream`.

        The arguments are those of :meth:`chat`.
        """
        text = render_chat(
            self.get_tokenizer(),
            messages,
            chat_template=chat_template,
            chat_template_kwargs=chat_template_kwargs,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
        )
        # The template writes its own special tokens; the tokenizer must not add more.
        token_ids = self.llm_engine.input_processor.tokenize_prompt(text, add_special_tokens=False)
        return {"prompt": text, "prompt_token_ids": token_ids}

    def stream(self, prompt: Prompt, sampling_params: SamplingParams | None = None) -> Iterator[RequestOutput]:
        """Yield the growing result of one prompt, step by step.

        Every ``text`` begins with the one before; what was shown is never taken back. Leaving the
        loop early ends the request. With ``best_of > n`` only the final result has outputs.
        """
        params = SamplingParams() if sampling_params is None else sampling_params
        return self._shared.run(self._shared.new_ids(1), [prompt], [params])

    def _run_all(self, prompts: list[Prompt], params: Sequence[Params], use_tqdm: bool) -> list[RequestOutput]:
        """Return the finished outputs in the order of the prompts."""
        request_ids = self._shared.new_ids(len(prompts))
        final: dict[str, RequestOutput] = {}
        with ProgressBar(len(prompts), disable=not use_tqdm) as progress:
            for output in self._shared.run(request_ids, prompts, params):
                if output.finished:
                    final[output.request_id] = output
                    progress.count(output)
        return [final[request_id] for request_id in request_ids]


def _one_each(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    if params is None:
        params = SamplingParams()
    if isinstance(params, SamplingParams):
        return [params] * count
    listed = items(params)
    if listed is None:
        raise ValueError(f"sampling_params must be a SamplingParams or a list of them, got {params!r}")
    if len(listed) != count:
        raise ValueError(f"sampling_params: got {len(listed)} for {count} prompts; give one for all or one each")
    for each in listed:
        if not isinstance(each, SamplingParams):
            raise ValueError(f"sampling_params must be a SamplingParams, got {each!r}")
    return listed
