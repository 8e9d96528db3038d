"""Requests and sequences: the state machine, forks, ranking, random streams."""

import copy
import itertools
from collections import Counter
from statistics import correlation

import pytest

from folovllm import Request, RequestStatus, SamplingParams, Sequence, SequenceData, SequenceStatus
from folovllm.outputs import Logprob
from folovllm.request import ALLOWED_TRANSITIONS, IllegalTransitionError, UniformStream
from tests.chi_square import p_value

S = SequenceStatus
ROUTES = {
    S.WAITING: [],
    S.RUNNING: [S.RUNNING],
    S.SWAPPED: [S.RUNNING, S.SWAPPED],
    S.FINISHED_STOPPED: [S.RUNNING, S.FINISHED_STOPPED],
    S.FINISHED_LENGTH_CAPPED: [S.RUNNING, S.FINISHED_LENGTH_CAPPED],
    S.FINISHED_ABORTED: [S.FINISHED_ABORTED],
    S.FINISHED_IGNORED: [S.RUNNING, S.FINISHED_STOPPED, S.FINISHED_IGNORED],
}


def sequence_in(status: SequenceStatus) -> Sequence:
    seq = Sequence("0-0", "0", SequenceData([1, 2, 3]), SamplingParams())
    for step in ROUTES[status]:
        seq.transition_to(step)
    return seq


@pytest.mark.parametrize(("before", "after"), list(itertools.product(S, S)))
def test_moves_are_those_of_the_table_and_no_others(before, after):
    seq = sequence_in(before)
    if after in ALLOWED_TRANSITIONS[before]:
        seq.transition_to(after)
        assert seq.status is after
    else:
        with pytest.raises(IllegalTransitionError, match=f"0-0 is {before} and cannot become {after}"):
            seq.transition_to(after)
        assert seq.status is before


def test_the_table_is_the_designs():
    ends = {S.FINISHED_STOPPED, S.FINISHED_LENGTH_CAPPED, S.FINISHED_ABORTED}
    assert ALLOWED_TRANSITIONS[S.WAITING] == {S.RUNNING, S.FINISHED_ABORTED}
    assert ALLOWED_TRANSITIONS[S.RUNNING] == {S.WAITING, S.SWAPPED, *ends}
    assert S.SWAPPED not in ALLOWED_TRANSITIONS[S.WAITING]
    assert all(ALLOWED_TRANSITIONS[end] <= {S.FINISHED_IGNORED} for end in (*ends, S.FINISHED_IGNORED))


def test_the_status_cannot_be_assigned():
    with pytest.raises(AttributeError):
        sequence_in(S.WAITING).status = S.RUNNING


@pytest.mark.parametrize("status", [status for status in S if status.is_finished()])
def test_no_token_is_added_after_the_end(status):
    seq = sequence_in(status)
    with pytest.raises(IllegalTransitionError, match="no token can be added"):
        seq.add_token_id(5)
    assert seq.data.output_token_ids == []


def test_statuses_are_strings_and_know_the_end():
    assert (str(S.RUNNING), S.RUNNING == "running") == ("running", True)
    assert {status for status in S if status.is_finished()} == {s for s in S if s.value.startswith("finished")}
    assert {status.value for status in RequestStatus} == {status.value for status in S} - {"finished_ignored"}


def test_sequence_data_counts_and_slices():
    data = SequenceData([1, 2, 3])
    assert data.get_last_token_id() == 3
    for token_id in (4, 5):
        data.add_token_id(token_id)
    assert (data.get_len(), data.get_prompt_len(), data.get_output_len()) == (5, 3, 2)
    assert (data.get_token_ids(), data.get_last_token_id()) == ([1, 2, 3, 4, 5], 5)
    for start, end in itertools.combinations(range(6), 2):
        assert data.get_slice(start, end) == [1, 2, 3, 4, 5][start:end]


def test_a_fork_shares_nothing_mutable():
    parent = sequence_in(S.RUNNING)
    parent.add_token_id(7)
    parent.token_logprobs.append(-1.0)
    parent.logprobs.append({7: Logprob(-1.0)})
    parent.block_hashes.append(b"x")
    parent.block_ids = [3]
    before = copy.deepcopy(vars(parent) | {"uniforms": None, "_num_forks": 1})
    child = parent.fork("0-1")
    assert (child.seq_id, child.get_token_ids(), child.status) == ("0-1", parent.get_token_ids(), S.RUNNING)
    assert child.block_ids == []  # blocks are shared by BlockManager.fork, which counts
    child.add_token_id(8)
    child.data.prompt_token_ids.append(9)
    child.token_logprobs.append(-2.0)
    child.logprobs[0][8] = Logprob(-2.0)
    child.logprobs.append({})
    child.block_hashes.clear()
    child.block_ids.append(4)
    child.stop_reason = "end"
    child.transition_to(S.FINISHED_STOPPED)
    assert vars(parent) | {"uniforms": None} == before


def test_forks_draw_their_own_numbers():
    parent = Sequence("0", "0", SequenceData([1]), SamplingParams(seed=5))
    children = [parent.fork(str(i)) for i in (1, 2)]
    assert [seq.seed for seq in (parent, *children)] == [5, 6, 7]
    assert parent.fork("3", seed=99).seed == 99
    assert len({seq.uniforms[0] for seq in (parent, *children)}) == 3


def test_child_i_of_a_request_draws_with_seed_plus_i():
    request = Request("r", "hi", [1, 2], SamplingParams(n=2, best_of=4, seed=10))
    assert [seq.seed for seq in request.sequences] == [10, 11, 12, 13]
    assert [seq.seq_id for seq in request.sequences] == ["r-0", "r-1", "r-2", "r-3"]


def test_a_requests_prompt_is_its_own_copy():
    given = [1, 2]
    request = Request("r", None, given, SamplingParams())
    given.append(3)
    request.sequences[0].data.prompt_token_ids.append(4)
    assert request.prompt_token_ids == [1, 2]


def test_a_request_needs_a_token():
    with pytest.raises(ValueError, match="prompt_token_ids must hold at least one token"):
        Request("r", "", [], SamplingParams())


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ((S.WAITING, S.WAITING), RequestStatus.WAITING),
        ((S.RUNNING, S.FINISHED_STOPPED), RequestStatus.RUNNING),
        ((S.SWAPPED, S.FINISHED_STOPPED), RequestStatus.SWAPPED),
        ((S.FINISHED_LENGTH_CAPPED, S.FINISHED_STOPPED), RequestStatus.FINISHED_LENGTH_CAPPED),
        ((S.FINISHED_IGNORED, S.FINISHED_STOPPED), RequestStatus.FINISHED_STOPPED),
        ((S.FINISHED_ABORTED, S.FINISHED_ABORTED), RequestStatus.FINISHED_ABORTED),
    ],
)
def test_a_requests_status_is_derived_from_its_sequences(statuses, status):
    request = Request("r", None, [1], SamplingParams(n=2))
    request.sequences = [sequence_in(each) for each in statuses]
    assert request.status is status
    assert request.is_finished() is all(each.is_finished() for each in statuses)
    assert request.get_seqs(statuses[0]) == [seq for seq in request.sequences if seq.status is statuses[0]]


def test_the_best_n_are_kept_in_order_and_the_rest_ignored():
    request = Request("r", None, [1], SamplingParams(n=2, best_of=4))
    for seq, logprob in zip(request.sequences, (-3.0, -1.0, -4.0, -2.0), strict=True):
        seq.transition_to(S.RUNNING)
        seq.token_logprobs.append(logprob)
        seq.transition_to(S.FINISHED_LENGTH_CAPPED)
    request.ignore_leftovers()
    assert [seq.cumulative_logprob for seq in request.ranked_sequences()] == [-1.0, -2.0]
    assert len(request.get_seqs(S.FINISHED_IGNORED)) == 2


@pytest.mark.parametrize("position", [0, 1, 5])
def test_neighbouring_seeds_give_uniform_numbers(position):
    drawn = [UniformStream(seed)[position] for seed in range(10_000)]
    counts = Counter(int(50 * number) for number in drawn)
    assert p_value([counts[i] for i in range(50)], [len(drawn) / 50] * 50) > 0.001
    assert abs(correlation(drawn[:-1], drawn[1:])) < 0.03


def test_a_stream_does_not_depend_on_the_order_of_asking():
    forwards, backwards = UniformStream(3), UniformStream(3)
    assert [forwards[i] for i in range(9)] == [backwards[i] for i in range(8, -1, -1)][::-1]


def test_a_move_may_be_named_by_its_string_and_an_unknown_name_is_refused():
    seq = Request("0", None, [1], SamplingParams()).sequences[0]
    seq.transition_to("running")
    assert seq.status is SequenceStatus.RUNNING
    assert not seq.is_finished()
    with pytest.raises(ValueError, match="'paused' is not a valid SequenceStatus"):
        seq.transition_to("paused")
    assert seq.status is SequenceStatus.RUNNING
