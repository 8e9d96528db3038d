"""The engine: take requests, and step by step turn them into text.

(vLLM: ``v1/engine/llm_engine.py``, ``v1/engine/core.py``.)
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from folovllm.collector import collector_paused
from folovllm.config import EngineConfig
from folovllm.engine.beam_search import choose, propose
from folovllm.engine.block_manager import BlockManager
from folovllm.engine.draws import Draw, draw_tokens, prepare_draws
from folovllm.engine.history import History
from folovllm.engine.input_processor import InputProcessor, Prompt
from folovllm.engine.metrics import Metric, MetricsLog
from folovllm.engine.output_processor import OutputProcessor
from folovllm.engine.scheduler import Scheduler
from folovllm.free_memory import out_of_memory_explained
from folovllm.model_loader import ModelLoader, get_eos_token_ids
from folovllm.models.given_model import check_given_model
from folovllm.models.memory import make_cache, size_cache
from folovllm.models.probe import get_attention
from folovllm.models.runner import ModelRunner
from folovllm.outputs import RequestOutput
from folovllm.request import Request, Sequence, SequenceStatus
from folovllm.sampling.sampler import Sampler
from folovllm.sampling_params import BeamSearchParams, SamplingParams
from folovllm.step import ScheduledSequence, SchedulerOutput
from folovllm.validation import non_empty_string


@contextmanager
def _blaming(request: Request) -> Iterator[None]:
    """Take an exception for this request's own: it will end, and the others go on."""
    try:
        yield
    except Exception as error:
        request.error = error


class LLMEngine:
    """One model, its KV cache, and the requests it works on.

    config: what was asked for; ``engine.config`` has every open point decided.
    attention_spec: what its KV cache holds for a token.
    model, tokenizer: already loaded ones, instead of those that the config names.
    """

    @out_of_memory_explained()
    @collector_paused()
    def __init__(
        self,
        config: EngineConfig,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        loader = ModelLoader(config.model_config)
        if (model is None) != (tokenizer is None):
            raise ValueError("model and tokenizer must be passed both or neither; got only one of them")
        if model is None or tokenizer is None:
            model, tokenizer = loader.load_model_and_tokenizer(config.device)
        else:
            check_given_model(model, tokenizer)
        config = loader.resolve(config, model, tokenizer)
        self.attention_spec = spec = get_attention(model, config.model_config.trust_remote_code)
        max_num_batched_tokens = config.scheduler_config.max_num_batched_tokens
        assert max_num_batched_tokens is not None, "resolving decides the token budget"
        forward = config.model_config.model_impl, config.model_config.enforce_eager
        cache_config = size_cache(config.cache_config, spec, model, max_num_batched_tokens, *forward)
        self.config = replace(config, cache_config=cache_config)

        self.tokenizer = tokenizer
        self.model_runner = ModelRunner(model, make_cache(spec, cache_config, model), *forward)
        block_manager = BlockManager(
            cache_config.block_size,
            cache_config.num_gpu_blocks,
            cache_config.num_cpu_blocks,
            cache_config.enable_prefix_caching,
        )
        self.scheduler = Scheduler(config.scheduler_config, block_manager)
        self.sampler = Sampler(config.sampling_order)
        eos_token_id, extra_eos_token_ids = get_eos_token_ids(model, tokenizer)
        self.input_processor = InputProcessor(self.config, model, tokenizer, {eos_token_id, *extra_eos_token_ids})
        self.output_processor = OutputProcessor(tokenizer, eos_token_id, extra_eos_token_ids)
        self.metrics = MetricsLog()
        self.history = History() if config.record_history else None
        self._requests: dict[str, Request] = {}
        self._busy = threading.Lock()

    # -- requests ------------------------------------------------------------------------------------

    def add_request(
        self, request_id: str, prompt: Prompt, sampling_params: SamplingParams | BeamSearchParams
    ) -> Request:
        """Check a request and put it in the waiting queue; an error or an interrupt changes nothing."""
        with self._exclusively():
            non_empty_string("request_id", request_id)
            if request_id in self._requests:
                raise ValueError(f"request_id {request_id!r} is in use by an unfinished request")
            block_manager = self.scheduler.block_manager
            request = self.input_processor.make_request(request_id, prompt, sampling_params, block_manager)
            try:
                if request.beam_state is None:
                    self.output_processor.track(request)
                self._requests[request_id] = request
                self.scheduler.add_request(request)
            except BaseException:
                self.scheduler.remove_request(request)
                self._forget(request)
                raise
            self.metrics.count_request(request)
            return request

    def abort_request(self, request_id: str) -> RequestOutput | None:
        """End an unfinished request, free what it holds, and return what it has so far; None if unknown."""
        with self._exclusively():
            request = self._requests.get(request_id)
            if request is None:
                return None
            self._end(request)
            return self._report(request)

    def compute_logits(self, prompt: Prompt) -> Tensor:
        """Return the logits of the token that would follow ``prompt``: [vocab], float32.

        One forward pass beside all requests; what it computes is not kept.
        """
        with self._exclusively():
            manager = self.scheduler.block_manager
            request = self.input_processor.make_request(
                "logits", prompt, SamplingParams(temperature=0, max_tokens=1), manager
            )
            [seq] = request.sequences
            if not manager.can_append([(seq, seq.get_len())]):
                raise ValueError(
                    f"prompt needs {manager.blocks_for(seq.get_len())} free KV blocks, more than there are"
                )
            try:
                manager.append_slots(seq, seq.get_len())
                step = SchedulerOutput([ScheduledSequence(request, seq, 0, seq.get_token_ids())])
                return self.model_runner.execute(step)[0]
            finally:
                manager.free(seq)

    def reset_prefix_cache(self) -> None:
        """Forget the content of all free blocks, so that the next prompts are computed in full (vLLM's name)."""
        with self._exclusively():
            self.scheduler.block_manager.gpu.forget_free_blocks()

    def has_unfinished_requests(self) -> bool:
        """Say whether a request still has something to report."""
        return bool(self._requests)

    def has_request(self, request_id: str) -> bool:
        """Say whether a request of this id has something to report yet."""
        return request_id in self._requests

    def get_metrics(self) -> list[Metric]:
        """Return what was counted since the engine started, and how full it is now; see :class:`MetricsLog`."""
        with self._exclusively():
            return self.metrics.read(self.scheduler, self._requests.values())

    @property
    def is_busy(self) -> bool:
        """Say whether it is in the middle of a step or another change, and so must not be used now."""
        return self._busy.locked()

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        if self._busy.locked():
            raise RuntimeError("this engine is in the middle of a step: use it from one thread at a time, or use LLM")
        with self._busy:  # Python lets no interrupt come between this and its end, as it might with try and finally
            yield

    # -- the loop --------------------------------------------------------------------------------------

    def step(self) -> list[RequestOutput]:
        """Run one step and return the requests that got on in it.

        An exception ends the requests that it concerns, and is the ``error`` of their outputs: one request where
        something of its own failed, else all that the step computes. The others go on with the same tokens.
        Interrupted anywhere, a step leaves every request whole: keys and values computed so far are
        given up, and the requests wait again with the tokens they have.
        """
        with self._exclusively():
            requests = dict(self._requests)
            num_tokens = {seq: seq.data.get_output_len() for each in requests.values() for seq in each.sequences}
            step: SchedulerOutput | None = None
            try:
                clock = [time.perf_counter()]
                step = self.scheduler.schedule()
                clock.append(time.perf_counter())
                # What is needed to draw is known before: it travels with the step, and counts as a part of drawing.
                prepare_draws(step, self.model_runner.vocab_size, self.model_runner.kv_cache.data.device)
                preparing = time.perf_counter() - clock[-1]
                logits = self.model_runner.execute(step)
                clock.append(time.perf_counter() - preparing)
                draws = draw_tokens(step, logits, self.sampler)
                clock.append(time.perf_counter())
                return self._append(step, logits, draws, clock)
            except BaseException as error:
                self._requests = requests  # also those that ended and whose report got lost
                self._recover(num_tokens)
                concerned = (
                    requests.values() if step is None else dict.fromkeys(item.request for item in step.scheduled)
                )
                unfinished = [request for request in concerned if not request.is_finished()]
                if not isinstance(error, Exception) or not unfinished:
                    raise
                return [self._fail(request, error) for request in unfinished]

    def _append(
        self, step: SchedulerOutput, logits: Tensor, draws: list[Draw], clock: list[float]
    ) -> list[RequestOutput]:
        """Give the drawn tokens to their sequences, end those that are done, and report."""
        # Before anything is appended: which logits are whose depends on where the sequences end.
        beams = self._propose_beams(step, logits)
        self._record_prompt_logprobs(step, logits)
        num_taken: dict[str, int] = {}
        for draw in draws:
            with _blaming(draw.request):
                num_taken[draw.sequence.seq_id] = self.output_processor.append(draw)
        for item in step.scheduled:
            # Of k tokens taken, the first k - 1 were guesses that held, so they are computed too.
            self.scheduler.mark_computed(item, max(0, num_taken.get(item.sequence.seq_id, 0) - 1))
            self._keep_time(item.request, clock[0], num_taken.get(item.sequence.seq_id, 0) > 0)
        for request in beams:
            choose(request, self.scheduler.block_manager)
        scheduled = {item.request.request_id: item.request for item in step.scheduled}
        for request in scheduled.values():
            if request.error is not None:
                self._end(request)
        self.scheduler.free_finished()
        if self.history is not None:
            self._record_history(step, clock)
        # Beside those that ran: what an interrupted step finished and could not report.
        requests = [r for r in self._requests.values() if r.request_id in scheduled or r.is_finished()]
        outputs = [self._report(request) for request in requests]
        self.metrics.count_step(step, num_taken)
        return outputs

    def _record_prompt_logprobs(self, step: SchedulerOutput, logits: Tensor) -> None:
        for item, judged, _ in step.rows():
            if judged:
                first = item.judged_positions.start + 1
                next_ids = item.sequence.data.prompt_token_ids[first : first + len(judged)]
                rows = logits[judged.start : judged.stop]
                with _blaming(item.request):
                    self.output_processor.record_prompt_logprobs(item.request, rows, next_ids)

    @staticmethod
    def _propose_beams(step: SchedulerOutput, logits: Tensor) -> list[Request]:
        """Let the texts of beam searches propose their continuations; return the requests that are searched."""
        beams = {}
        for item, _, sampled in step.rows():
            if sampled and item.request.beam_state is not None:
                with _blaming(item.request):
                    propose(item.request, item.sequence, logits[sampled.start])
                beams[item.request.request_id] = item.request
        return [request for request in beams.values() if request.error is None]

    def _keep_time(self, request: Request, started: float, got_token: bool) -> None:
        metrics = request.metrics
        if metrics.first_scheduled_time is None:
            metrics.first_scheduled_time = started
            self.metrics.count_start(request)
        if got_token and metrics.first_token_time is None:
            metrics.first_token_time = time.perf_counter()

    def _record_history(self, step: SchedulerOutput, clock: list[float]) -> None:
        assert self.history is not None
        clock = [*clock, time.perf_counter()]
        milliseconds = [1000 * (after - before) for before, after in pairwise(clock)]
        self.history.add(step, list(self._requests.values()), self.scheduler.block_manager, milliseconds)

    def _report(self, request: Request) -> RequestOutput:
        """Return a request's output; once it has ended, rank its sequences and forget it."""
        output = None
        if request.error is None:
            with _blaming(request):
                if request.is_finished():
                    self._close(request)
                output = self.output_processor.make_output(request)
        if output is None:
            self._end(request)
            output = self.output_processor.make_failed_output(request)
        if output.finished:
            self.metrics.count_end(request, output)
            self._forget(request)
        return output

    def _close(self, request: Request) -> None:
        request.ignore_leftovers()
        if request.beam_state is not None:
            self.output_processor.track(request)
        request.metrics.finished_time = time.perf_counter()

    def _fail(self, request: Request, error: Exception) -> RequestOutput:
        """End a request because of an error, and return the output that tells its owner."""
        request.error = error
        return self._report(request)

    def _end(self, request: Request) -> None:
        """Take an unfinished request out of the engine and give back what it holds."""
        swapped = request.get_seqs(SequenceStatus.SWAPPED)
        self.model_runner.kv_cache.drop_host_blocks([block for seq in swapped for block in seq.block_ids])
        self.scheduler.remove_request(request)
        for seq in request.get_unfinished_seqs():
            seq.transition_to(SequenceStatus.FINISHED_ABORTED)

    def _forget(self, request: Request) -> None:
        self.output_processor.remove_request(request)
        self._requests.pop(request.request_id, None)

    def _recover(self, num_tokens: dict[Sequence, int]) -> None:
        """Undo an interrupted step: drop all keys and values, and the tokens that nobody was told of.

        Sequences that ended in it stay ended; the others wait again. Their random numbers belong to
        positions, so they will draw the same tokens.
        """
        self.model_runner.kv_cache.drop_host_blocks()
        requests = list(self._requests.values())
        for request in requests:
            if not request.is_finished():
                request.error = None
            for seq in request.get_unfinished_seqs():
                seq.truncate_output(num_tokens.get(seq, seq.data.get_output_len()))
            if request.beam_state is None:
                with _blaming(request):
                    self.output_processor.track(request)
        self.scheduler.requeue(requests)
