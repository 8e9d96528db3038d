"""The scheduler's rules one by one, and random lives of it without a model."""

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from folovllm import Request, SamplingParams, SchedulerConfig, SequenceStatus
from folovllm.engine.block_manager import BlockManager
from folovllm.engine.scheduler import Scheduler
from folovllm.step import SchedulerOutput


def make_scheduler(num_blocks: int = 100, block_size: int = 4, num_host: int = 0, **settings) -> Scheduler:
    config = SchedulerConfig(**({"max_num_batched_tokens": 32, "max_num_seqs": 8} | settings))
    return Scheduler(config, BlockManager(block_size, num_blocks, num_host))


def make_request(name: str, prompt_len: int, n: int = 1, max_tokens: int = 50) -> Request:
    """Return a request whose prompt begins like no other one's."""
    params = SamplingParams(n=n, max_tokens=max_tokens, seed=0)
    return Request(name, None, [1000 * ord(name) + i for i in range(prompt_len)], params)


def run(scheduler: Scheduler) -> SchedulerOutput:
    """Run one step with a model that always says token 1."""
    step = scheduler.schedule()
    for item in step.scheduled:
        for seq in [item.sequence, *item.followers] if item.is_sampled else []:
            seq.add_token_id(1)
            if seq.data.get_output_len() == item.request.max_tokens:
                seq.transition_to(SequenceStatus.FINISHED_LENGTH_CAPPED)
    for item in step.scheduled:
        scheduler.mark_computed(item)
    scheduler.free_finished()
    return step


def tokens_by_request(step: SchedulerOutput) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in step.scheduled:
        counts[item.request.request_id] = counts.get(item.request.request_id, 0) + len(item.token_ids)
    return counts


def test_first_come_first_served_under_the_token_budget():
    scheduler = make_scheduler()
    for name, length in (("a", 20), ("b", 20), ("c", 20)):
        scheduler.add_request(make_request(name, length))
    assert tokens_by_request(run(scheduler)) == {"a": 20, "b": 12}
    assert tokens_by_request(run(scheduler)) == {"a": 1, "b": 8, "c": 20}
    assert tokens_by_request(run(scheduler)) == {"a": 1, "b": 1, "c": 1}


def test_without_chunked_prefill_a_prompt_waits_until_it_fits_the_budget():
    scheduler = make_scheduler(enable_chunked_prefill=False)
    for name, length in (("a", 20), ("b", 20), ("c", 2)):
        scheduler.add_request(make_request(name, length))
    assert tokens_by_request(run(scheduler)) == {"a": 20}  # c does not overtake b
    assert tokens_by_request(run(scheduler)) == {"a": 1, "b": 20, "c": 2}


def test_at_most_max_num_seqs_run():
    scheduler = make_scheduler(max_num_seqs=3)
    for name, n in (("a", 2), ("b", 2), ("c", 1)):
        scheduler.add_request(make_request(name, 4, n=n, max_tokens=3))
    assert tokens_by_request(run(scheduler)) == {"a": 4}  # b needs two seats; c does not overtake it
    assert tokens_by_request(run(scheduler)) == {"a": 2}
    run(scheduler)
    assert tokens_by_request(run(scheduler)) == {"b": 4, "c": 4}


def with_beginning(name: str, beginning: int, tail: int) -> Request:
    """Return a request whose first ``beginning`` tokens are those of every other one made here."""
    ids = [7 + i for i in range(beginning)] + [1000 * ord(name) + i for i in range(tail)]
    return Request(name, None, ids, SamplingParams(max_tokens=50, seed=0))


def test_a_prompt_waits_a_step_for_the_beginning_that_another_is_computing():
    scheduler = make_scheduler(max_num_batched_tokens=64)
    for name in "abc":
        scheduler.add_request(with_beginning(name, 16, 2))
    scheduler.add_request(make_request("d", 5))
    assert tokens_by_request(run(scheduler)) == {"a": 18}  # d does not overtake b and c
    assert tokens_by_request(run(scheduler)) == {"a": 1, "b": 2, "c": 2, "d": 5}


def test_it_does_not_wait_for_less_than_half_of_what_it_needs_nor_without_prefix_caching():
    scheduler = make_scheduler(max_num_batched_tokens=64)
    for name in "ab":
        scheduler.add_request(with_beginning(name, 8, 9))
    assert tokens_by_request(run(scheduler)) == {"a": 17, "b": 17}
    scheduler = make_scheduler(max_num_batched_tokens=64)
    scheduler.block_manager.enable_prefix_caching = False
    for name in "ab":
        scheduler.add_request(with_beginning(name, 16, 2))
    assert tokens_by_request(run(scheduler)) == {"a": 18, "b": 18}


def test_it_goes_on_by_itself_when_the_one_it_waits_for_is_gone():
    scheduler = make_scheduler(max_num_batched_tokens=10)
    first = with_beginning("a", 16, 2)
    scheduler.add_request(first)
    scheduler.add_request(with_beginning("b", 16, 2))
    assert tokens_by_request(run(scheduler)) == {"a": 10}
    scheduler.remove_request(first)
    assert tokens_by_request(run(scheduler)) == {"b": 10}


def test_the_prompt_of_several_sequences_is_computed_once():
    scheduler = make_scheduler()
    scheduler.add_request(request := make_request("a", 6, n=3))
    assert tokens_by_request(run(scheduler)) == {"a": 6}
    assert len({tuple(seq.block_ids) for seq in request.sequences}) == 1
    step = run(scheduler)
    assert tokens_by_request(step) == {"a": 3}
    assert len(step.blocks_to_copy) == 2


def test_out_of_blocks_the_latest_request_gives_way_and_starts_again():
    scheduler = make_scheduler(num_blocks=5)
    first, second = make_request("a", 8), make_request("b", 8)
    scheduler.add_request(first)
    scheduler.add_request(second)
    run(scheduler)
    step = run(scheduler)
    assert step.preempted == {"b": SequenceStatus.WAITING}
    assert tokens_by_request(step) == {"a": 1}
    assert (second.sequences[0].block_ids, second.sequences[0].num_computed_tokens) == ([], 0)
    assert second.sequences[0].data.get_output_len() == 1


def test_several_live_sequences_are_swapped_if_the_host_has_room_else_recomputed():
    for num_host, status in ((20, SequenceStatus.SWAPPED), (1, SequenceStatus.WAITING)):
        scheduler = make_scheduler(num_blocks=8, num_host=num_host)
        for name in "ab":
            scheduler.add_request(make_request(name, 8, n=2))
        preempted: dict = {}
        while not preempted:
            preempted = run(scheduler).preempted
        assert preempted == {"b": status}


def test_swapped_requests_come_back_before_waiting_ones_start():
    scheduler = make_scheduler(num_blocks=8, num_host=20)
    scheduler.add_request(make_request("a", 8, n=2, max_tokens=6))
    scheduler.add_request(make_request("b", 8, n=2, max_tokens=6))
    while not scheduler.swapped:
        run(scheduler)
    scheduler.add_request(make_request("c", 2))
    started = []
    while scheduler.has_unfinished_requests() and "c" not in started:
        started += [name for name in tokens_by_request(run(scheduler)) if name not in started]
    assert started.index("b") < started.index("c")


def test_a_draft_is_given_up_before_anyone_is_preempted():
    drafts = {}
    for num_blocks in (4, 100):
        scheduler = make_scheduler(num_blocks=num_blocks, num_speculative_tokens=4)
        for name, token in (("a", 1), ("b", 2)):
            prompt = [token, 3, 4, token, 3, 4, 1]  # the model will say 1, as it stands here before
            scheduler.add_request(Request(name, None, prompt, SamplingParams(max_tokens=50)))
        run(scheduler)
        step = run(scheduler)
        assert step.preempted == {}
        drafts[num_blocks] = [item.num_draft_tokens for item in step.scheduled]
    assert drafts == {4: [0, 0], 100: [4, 4]}


class SchedulerMachine(RuleBasedStateMachine):
    """Random arrivals, aborts and interruptions; after every step the budgets and the blocks are right."""

    @initialize(
        block_size=st.integers(1, 6),
        num_host=st.sampled_from([0, 3, 40]),
        max_num_seqs=st.integers(3, 8),
        budget=st.integers(8, 40),
        chunked=st.booleans(),
        speculation=st.sampled_from([0, 3]),
        seed=st.integers(0, 2**32),
    )
    def start(self, block_size, num_host, max_num_seqs, budget, chunked, speculation, seed):
        self.rng = random.Random(seed)
        self.limit = 40
        self.scheduler = make_scheduler(
            num_blocks=-(-self.limit // block_size) * 3,
            block_size=block_size,
            num_host=num_host,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max(budget, max_num_seqs) if chunked else 48,
            enable_chunked_prefill=chunked,
            num_speculative_tokens=speculation,
        )
        self.requests: list[Request] = []
        self.started: list[int] = []

    @rule(count=st.integers(1, 3))
    def arrive(self, count):
        for _ in range(count):
            length = self.rng.randint(1, 25)
            prompt = [self.rng.randrange(4) for _ in range(length)]
            params = SamplingParams(n=self.rng.choice([1, 1, 2, 3]), max_tokens=self.rng.randint(1, 15), seed=0)
            request = Request(str(len(self.requests)), None, prompt, params)
            self.requests.append(request)
            self.scheduler.add_request(request)

    @precondition(lambda self: self.scheduler.has_unfinished_requests())
    @rule(steps=st.integers(1, 4))
    def step(self, steps):
        for _ in range(steps):
            if not self.scheduler.has_unfinished_requests():
                return
            output = run(self.scheduler)
            self.check(output)

    def check(self, output: SchedulerOutput) -> None:
        assert 0 < output.num_batched_tokens <= self.scheduler.max_num_batched_tokens
        ids = [item.sequence.seq_id for item in output.scheduled]
        assert len(ids) == len(set(ids))
        for name in tokens_by_request(output):
            if int(name) not in self.started:
                self.started.append(int(name))
        # Aborted ones aside, requests start in the order in which they came.
        assert self.started == sorted(self.started)

    @precondition(lambda self: self.requests)
    @rule()
    def abort(self):
        request = self.rng.choice(self.requests)
        if not request.is_finished():
            self.scheduler.remove_request(request)
            for seq in request.get_unfinished_seqs():
                seq.transition_to(SequenceStatus.FINISHED_ABORTED)

    @rule()
    def interrupt(self):
        self.scheduler.requeue([request for request in self.requests if not request.is_finished()])

    @invariant()
    def blocks_and_seats_are_right(self):
        if not hasattr(self, "scheduler"):
            return
        manager = self.scheduler.block_manager
        seqs = [seq for request in self.requests for seq in request.sequences]
        for pool, swapped in ((manager.gpu, False), (manager.cpu, True)):
            held = [b for seq in seqs if (seq.status == "swapped") is swapped for b in seq.block_ids]
            assert pool.ref_counts == [held.count(block) for block in range(len(pool.ref_counts))]
            assert pool.num_free == pool.num_blocks - len(set(held))
        running = [seq for seq in seqs if seq.status == "running"]
        assert len(running) <= self.scheduler.config.max_num_seqs

    def teardown(self):
        for _ in range(5000):
            if not hasattr(self, "scheduler") or not self.scheduler.has_unfinished_requests():
                break
            self.check(run(self.scheduler))
        for request in getattr(self, "requests", ()):
            assert request.is_finished()
            assert all(len(s.data.output_token_ids) <= request.max_tokens for s in request.sequences)


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
