"""From drawn tokens to what the user sees: append, check for the end, decode, report.

(vLLM: ``v1/core/sched/utils.py`` ``check_stop`` and ``v1/engine/output_processor.py``.)
"""

from functools import cache, partial

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from folovllm.engine.detokenizer import Detokenizer, decode_token
from folovllm.engine.draws import Draw, DrawnToken
from folovllm.outputs import NO_TOKEN_LEFT, CompletionOutput, Logprob, RequestOutput
from folovllm.request import Request, Sequence, SequenceStatus
from folovllm.sampling.sampler import LogprobsTensors, compute_logprobs
from folovllm.transfer import receive_together, send_together


class OutputProcessor:
    """Keeps one detokenizer a sequence and turns requests into :class:`RequestOutput`.

    eos_token_id: ends a sequence without a stop reason.  extra_eos_token_ids: the generation
    config's further ends; they are reported as stop reason, as vLLM does.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, eos_token_id: int | None, extra_eos_token_ids: frozenset[int]
    ) -> None:
        self.tokenizer = tokenizer
        self.eos_token_id = eos_token_id
        self.extra_eos_token_ids = extra_eos_token_ids
        self._detokenizers: dict[str, Detokenizer] = {}
        self._decode_token = cache(partial(decode_token, tokenizer))

    def track(self, request: Request) -> None:
        """Start decoding its sequences, from whatever tokens they have."""
        for seq in request.sequences:
            detokenizer = Detokenizer(self.tokenizer, seq.data.prompt_token_ids, seq.sampling_params)
            detokenizer.update(seq.data.output_token_ids[:-1])
            ended_by_token = seq.status == SequenceStatus.FINISHED_STOPPED and not isinstance(seq.stop_reason, str)
            detokenizer.update(seq.data.output_token_ids[-1:], stop_terminated=ended_by_token)
            self._detokenizers[seq.seq_id] = detokenizer

    def remove_request(self, request: Request) -> None:
        """Forget its sequences."""
        for seq in request.sequences:
            self._detokenizers.pop(seq.seq_id, None)

    # -- one step ------------------------------------------------------------------------------------

    def append(self, draw: Draw) -> int:
        """Append the drawn tokens until the sequence ends; return how many were taken."""
        seq = draw.sequence
        for count, token in enumerate(draw.tokens, start=1):
            self._record_logprobs(seq, token)
            seq.add_token_id(token.token_id)
            if self._check_end(draw.request, seq):
                return count
        if draw.no_token_left:
            seq.stop_reason = NO_TOKEN_LEFT
            seq.transition_to(SequenceStatus.FINISHED_STOPPED)
        return len(draw.tokens)

    def _check_end(self, request: Request, seq: Sequence) -> bool:
        """End the sequence if its newest token says so: by EOS, stop id, length, or a stop string."""
        stop_reason: int | str | None
        status, stop_reason = self._check_token(request, seq)
        terminated = status == SequenceStatus.FINISHED_STOPPED
        detokenizer = self._detokenizers[seq.seq_id]
        stop_string = detokenizer.update([seq.data.get_last_token_id()], stop_terminated=terminated)
        if stop_string is not None:
            status, stop_reason = SequenceStatus.FINISHED_STOPPED, stop_string
        if status is None:
            return False
        seq.stop_reason = stop_reason
        seq.transition_to(status)
        return True

    def _check_token(self, request: Request, seq: Sequence) -> tuple[SequenceStatus | None, int | None]:
        params = seq.sampling_params
        last, num_output = seq.data.get_last_token_id(), seq.data.get_output_len()
        if num_output >= params.min_tokens:
            if not params.ignore_eos and last == self.eos_token_id:
                return SequenceStatus.FINISHED_STOPPED, None
            if last in params.stop_token_ids or (not params.ignore_eos and last in self.extra_eos_token_ids):
                return SequenceStatus.FINISHED_STOPPED, last
        if request.max_tokens is not None and num_output >= request.max_tokens:
            return SequenceStatus.FINISHED_LENGTH_CAPPED, None
        return None, None

    # -- log-probabilities -----------------------------------------------------------------------------

    def _record_logprobs(self, seq: Sequence, token: DrawnToken) -> None:
        params = seq.sampling_params
        if token.logprobs is None or (params.logprobs is None and params.num_sequences == params.n):
            return  # a neighbour in the batch asked, not this sequence
        seq.token_logprobs.append(float(token.logprobs.logprobs[token.row, 0]))
        if params.logprobs is not None:
            seq.logprobs.append(self._logprobs_dict(token.logprobs, token.row, params.logprobs))

    def record_prompt_logprobs(self, request: Request, logits: Tensor, next_token_ids: list[int]) -> None:
        """Add an entry for each row of logits ``[num_rows, vocab]``, which judges the prompt token that follows."""
        wanted = request.sampling_params.prompt_logprobs
        assert wanted is not None, "prompt log-probabilities that nobody asked for"
        num_logprobs = logits.shape[-1] if wanted == -1 else wanted
        judged = send_together(torch.tensor(next_token_ids, device="cpu"), logits.device)
        logprobs = receive_together(compute_logprobs(logits, judged, num_logprobs))
        request.prompt_logprobs += [self._logprobs_dict(logprobs, row, wanted) for row in range(len(next_token_ids))]

    def _logprobs_dict(self, logprobs: LogprobsTensors, row: int, num_wanted: int) -> dict[int, Logprob]:
        """Return the judged token first, then the ``num_wanted`` likeliest (-1 for all): N or N + 1 entries."""
        end = None if num_wanted == -1 else 1 + num_wanted
        ids = logprobs.token_ids[row, :end].tolist()
        values = logprobs.logprobs[row, :end].tolist()
        ranks = [int(logprobs.ranks[row]), *range(1, len(ids))]
        entries: dict[int, Logprob] = {}
        for token_id, value, rank in zip(ids, values, ranks, strict=True):
            if token_id not in entries:
                entries[token_id] = Logprob(value, rank, self._decode_token(token_id))
        return entries

    # -- reporting -----------------------------------------------------------------------------------

    def make_output(self, request: Request) -> RequestOutput:
        """Return what is known of a request now.

        With ``best_of > n``, and in beam search, nobody knows the best before the end: until then ``outputs`` is empty.
        """
        finished = request.is_finished()
        params = request.sampling_params
        known = finished or (params.num_sequences == params.n and request.beam_state is None)
        shown = request.ranked_sequences()[: params.n] if known else []
        return RequestOutput(
            request_id=request.request_id,
            prompt=request.prompt,
            prompt_token_ids=list(request.prompt_token_ids),
            prompt_logprobs=list(request.prompt_logprobs) or None,
            outputs=[self._make_completion(index, seq) for index, seq in enumerate(shown)],
            finished=finished,
            metrics=request.metrics,
            num_cached_tokens=request.num_cached_tokens or 0,
        )

    def make_failed_output(self, request: Request) -> RequestOutput:
        """Return what is said of a request that an error has ended: nothing but the error."""
        return RequestOutput(
            request_id=request.request_id,
            prompt=request.prompt,
            prompt_token_ids=list(request.prompt_token_ids),
            prompt_logprobs=None,
            outputs=[],
            finished=True,
            metrics=request.metrics,
            error=request.error,
        )

    def _make_completion(self, index: int, seq: Sequence) -> CompletionOutput:
        asked = seq.sampling_params.logprobs is not None
        return CompletionOutput(
            index=index,
            text=self._detokenizers[seq.seq_id].stable_text(seq.is_finished()),
            token_ids=list(seq.data.output_token_ids),
            cumulative_logprob=seq.cumulative_logprob if seq.token_logprobs or asked else None,
            logprobs=list(seq.logprobs) if asked else None,
            finish_reason=seq.finish_reason,
            stop_reason=seq.stop_reason,
        )
