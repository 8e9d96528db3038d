"""Beam search: keep the ``beam_width`` most probable texts instead of drawing one.

After a forward pass every live text proposes its likeliest continuations; the best of all proposals
live on. A text that wins several times is forked, one that loses gives its blocks back, so texts with
a common beginning share its blocks. The engine schedules, preempts and swaps these sequences like any
others. (vLLM runs beam search above its engine, ``entrypoints/generate/beam_search/offline.py``, with
prefix caching instead of forks.)
"""

import math

from torch import Tensor

from folovllm.engine.block_manager import BlockManager
from folovllm.request import BeamState, Proposal, Request, Sequence, SequenceStatus
from folovllm.sampling.sampler import no_choice_error
from folovllm.transfer import receive_together


def propose(request: Request, seq: Sequence, logits: Tensor) -> None:
    """Note a sequence's likeliest continuations. logits: [vocab], float32.

    Twice as many as there are beams: even if half of them end in EOS, enough live on. A ValueError for NaN logits.
    """
    state = request.beam_state
    assert state is not None, "only beam search proposes"
    best = logits.log_softmax(dim=-1).topk(min(2 * state.params.beam_width, logits.shape[-1]))
    values, token_ids = receive_together((best.values, best.indices))
    if values.isnan().any():  # as where the largest logit is not finite
        raise no_choice_error(logits)
    state.proposals[seq.seq_id] = [
        Proposal(seq, token_id, logprob)
        for token_id, logprob in zip(token_ids.tolist(), values.tolist(), strict=True)
        if logprob > -math.inf
    ]


def choose(request: Request, manager: BlockManager) -> None:
    """Once all live sequences have proposed, replace them by the best continuations; end the request when done."""
    state = request.beam_state
    assert state is not None, "only beam search chooses"
    live = request.get_unfinished_seqs()
    if any(seq.seq_id not in state.proposals for seq in live):
        return
    ranked = sorted((p for seq in live for p in state.proposals[seq.seq_id]), key=lambda p: -p.total)
    chosen, ended = _split(request, ranked)
    following = BeamState(state.params, completed=list(state.completed), num_forks=state.num_forks)
    following.completed += [_extend(following, proposal) for proposal in ended]
    children = [_extend(following, proposal) for proposal in chosen]
    for proposal, child in zip(chosen, children, strict=True):
        manager.fork(proposal.parent, child)
    for seq in following.completed[len(state.completed) :]:
        seq.transition_to(SequenceStatus.FINISHED_STOPPED)
    for seq in live:
        manager.free(seq)
    if _is_done(request, following, children):
        for seq in children:
            manager.free(seq)
            seq.transition_to(SequenceStatus.FINISHED_LENGTH_CAPPED)
        children = sorted(following.completed + children, key=following.score, reverse=True)
    # One update: an interrupt finds the request either before or after the choice.
    vars(request).update(sequences=children, beam_state=following)


def _split(request: Request, ranked: list[Proposal]) -> tuple[list[Proposal], list[Proposal]]:
    """Return the ``beam_width`` best proposals that go on, and those before the last of them that end."""
    assert request.beam_state is not None
    params = request.beam_state.params
    chosen: list[Proposal] = []
    ended: list[Proposal] = []
    for proposal in ranked:
        if len(chosen) == params.beam_width:
            break
        ends = not params.ignore_eos and proposal.token_id in request.eos_token_ids
        (ended if ends else chosen).append(proposal)
    return chosen, ended


def _extend(state: BeamState, proposal: Proposal) -> Sequence:
    parent = proposal.parent
    state.num_forks += 1
    child = parent.fork(f"{parent.request_id}-beam{state.num_forks}")
    child.token_logprobs.append(proposal.token_logprob)
    child.add_token_id(proposal.token_id)
    return child


def _is_done(request: Request, state: BeamState, live: list[Sequence]) -> bool:
    """Say whether no live text can still get among the best ``beam_width``.

    Log-probabilities only fall, so a live text's best hope is to add nothing to its sum and to reach
    the length that its score is divided by most kindly.
    """
    if not live or live[0].data.get_output_len() == request.max_tokens:
        return True
    width, penalty = state.params.beam_width, state.params.length_penalty
    if len(state.completed) < width:
        return False
    assert request.max_tokens is not None
    kindest = request.max_tokens if penalty > 0 else live[0].data.get_output_len() + 1
    hope: float = max(seq.cumulative_logprob for seq in live) / kindest**penalty
    worst_kept: float = sorted(map(state.score, state.completed), reverse=True)[width - 1]
    return worst_kept >= hope
