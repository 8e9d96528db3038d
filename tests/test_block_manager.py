"""KV blocks: nothing is lost, freed twice, or written while shared; every sequence reads back what it wrote."""

import itertools
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from folovllm import SamplingParams, Sequence, SequenceData, SequenceStatus
from folovllm.engine.block_manager import BlockManager, hash_block


def make_sequence(tokens: list[int], name: str = "s") -> Sequence:
    return Sequence(name, name, SequenceData(list(tokens)), SamplingParams(), seed=0)


def compute(manager: BlockManager, seq: Sequence, num_tokens: int) -> list[tuple[int, int]]:
    """Do what a step does: slots, then (as if by the model) the tokens, then remember the full blocks."""
    copies = manager.append_slots(seq, num_tokens)
    start = seq.num_computed_tokens
    seq.num_computed_tokens += num_tokens
    manager.remember_full_blocks(seq, start)
    return copies


def test_blocks_are_counted_by_rounding_up():
    manager = BlockManager(4, 10)
    assert [manager.blocks_for(n) for n in (0, 1, 4, 5, 8)] == [0, 1, 1, 2, 2]


def test_the_most_blocks_that_a_request_can_hold():
    manager = BlockManager(4, 100)
    assert manager.max_blocks_needed(prompt_len=6, max_len=7, num_seqs=1) == 2  # the 7th token is never computed
    assert manager.max_blocks_needed(prompt_len=8, max_len=9, num_seqs=3) == 2
    assert manager.max_blocks_needed(prompt_len=10, max_len=17, num_seqs=3) == 2 + 3 * 2


def test_a_shared_partly_filled_block_is_copied_by_all_writers_but_the_last():
    manager = BlockManager(4, 10)
    parent = make_sequence([1, 2, 3, 4, 5, 6])
    compute(manager, parent, 6)
    full, partial = parent.block_ids
    children = [parent.fork(str(i)) for i in range(2)]
    for child in children:
        manager.fork(parent, child)
    assert manager.gpu.ref_counts[full] == manager.gpu.ref_counts[partial] == 3
    family = [parent, *children]
    assert manager.can_append([(seq, 1) for seq in family])
    copies = [manager.append_slots(seq, 1) for seq in family]
    assert copies == [[(partial, parent.block_ids[1])], [(partial, children[0].block_ids[1])], []]
    assert children[1].block_ids == [full, partial]
    assert manager.gpu.ref_counts[full] == 3
    assert len({seq.block_ids[1] for seq in family}) == 3


def test_can_append_counts_copies_exactly():
    manager = BlockManager(4, 4)
    parent = make_sequence([1, 2, 3, 4, 5])
    compute(manager, parent, 5)
    children = [parent.fork(str(i)) for i in range(2)]
    for child in children:
        manager.fork(parent, child)
    plan = [(seq, 1) for seq in (parent, *children)]
    assert manager.gpu.num_free == 2
    assert manager.can_append(plan)  # three writers of one block need two copies
    other = make_sequence([9])
    compute(manager, other, 1)
    assert not manager.can_append(plan)


def test_a_prefix_is_found_after_its_request_ended_and_leaves_the_last_token():
    manager = BlockManager(4, 10)
    first = make_sequence(range(12))
    compute(manager, first, 12)
    blocks = list(first.block_ids)
    manager.free(first)
    assert (manager.gpu.num_free, manager.gpu.num_cached) == (10, 3)
    assert manager.find_cached_prefix(make_sequence(range(12))) == blocks[:2]
    assert manager.find_cached_prefix(make_sequence(range(13))) == blocks
    assert manager.find_cached_prefix(make_sequence([99, *range(1, 12)])) == []
    assert manager.find_cached_prefix(make_sequence([*range(4), 99, *range(5, 12)])) == blocks[:1]


def test_a_hash_says_all_that_came_before():
    same = [5, 6]
    assert hash_block(hash_block(b"", [1]), same) != hash_block(hash_block(b"", [2]), same)
    assert hash_block(b"", [1, 2]) != hash_block(b"", [2, 1])


def test_without_prefix_caching_nothing_is_found():
    manager = BlockManager(4, 10, enable_prefix_caching=False)
    first = make_sequence(range(12))
    compute(manager, first, 12)
    manager.free(first)
    assert manager.find_cached_prefix(make_sequence(range(13))) == []
    assert manager.gpu.num_cached == 0


def test_the_least_recently_used_block_is_evicted_first_and_a_tail_before_its_beginning():
    manager = BlockManager(2, 4)
    old, new = make_sequence([1, 2, 3, 4], "old"), make_sequence([5, 6, 7, 8], "new")
    for seq in (old, new):
        compute(manager, seq, 4)
    kept = {seq.seq_id: list(seq.block_ids) for seq in (old, new)}
    manager.free(old)
    manager.free(new)
    third = make_sequence([9, 9], "third")
    compute(manager, third, 2)
    assert third.block_ids == [kept["old"][1]]
    assert manager.find_cached_prefix(make_sequence([1, 2, 3, 4, 0])) == [kept["old"][0]]
    assert manager.find_cached_prefix(make_sequence([5, 6, 7, 8, 0])) == kept["new"]


def test_free_blocks_that_were_found_again_are_not_counted_as_room():
    manager = BlockManager(2, 3)
    first = make_sequence([1, 2, 3, 4])
    compute(manager, first, 4)
    manager.free(first)
    again = make_sequence([1, 2, 3, 4, 5, 6])
    cached = manager.find_cached_prefix(again)
    assert len(cached) == 2
    assert manager.can_start(cached, 6)
    assert not manager.can_start(cached, 7)


def test_swapping_moves_shared_blocks_once_and_keeps_them_shared():
    manager = BlockManager(2, 6, num_cpu_blocks=3)
    parent = make_sequence([1, 2, 3, 4])
    compute(manager, parent, 4)
    child = parent.fork("c")
    manager.fork(parent, child)
    compute(manager, child, 0)
    out = manager.swap_out([parent, child])
    assert len(out) == 2
    assert manager.gpu.num_free == 6
    assert manager.cpu.ref_counts == [2, 2]
    back = manager.swap_in([parent, child])
    assert [host for host, _ in back] == [host for _, host in out]
    assert parent.block_ids == child.block_ids == [device for _, device in back]
    assert manager.cpu.num_free == 3


def test_a_block_freed_twice_is_noticed():
    manager = BlockManager(2, 2)
    seq = make_sequence([1])
    compute(manager, seq, 1)
    block = seq.block_ids[0]
    manager.free(seq)
    with pytest.raises(AssertionError, match="freed twice"):
        manager.gpu.release(block)


class BlockMachine(RuleBasedStateMachine):
    """Random lives of sequences over one manager, beside a model of what every block holds.

    ``memory`` is the KV cache: for each block the tokens written into its slots. A sequence is right
    if reading along its table gives its own computed tokens.
    """

    @initialize(
        block_size=st.integers(1, 5),
        num_blocks=st.integers(4, 20),
        num_host=st.integers(0, 10),
        caching=st.booleans(),
        seed=st.integers(0, 2**32),
    )
    def start(self, block_size, num_blocks, num_host, caching, seed):
        self.manager = BlockManager(block_size, num_blocks, num_host, caching)
        self.rng = random.Random(seed)
        self.memory = [[None] * block_size for _ in range(num_blocks)]
        self.host = {}
        self.live: list[Sequence] = []
        self.swapped: list[list[Sequence]] = []
        self.past: list[list[int]] = []
        self.names = itertools.count()

    def write(self, seq: Sequence, num_tokens: int) -> None:
        for source, target in self.manager.append_slots(seq, num_tokens):
            self.memory[target] = list(self.memory[source])
        start, size = seq.num_computed_tokens, self.manager.block_size
        for position in range(start, start + num_tokens):
            block = seq.block_ids[position // size]
            assert self.manager.gpu.ref_counts[block] == 1, "a shared block is written"
            self.memory[block][position % size] = seq.get_token_ids()[position]
        seq.num_computed_tokens = start + num_tokens
        self.manager.remember_full_blocks(seq, start)

    @rule(length=st.integers(1, 12), shared=st.integers(0, 12))
    def add(self, length, shared):
        self.begin([7] * shared + [self.rng.randrange(3) for _ in range(length)])

    @precondition(lambda self: self.past)
    @rule()
    def add_what_was_there_before(self):
        self.begin([*self.rng.choice(self.past), 7])

    def begin(self, tokens: list[int]) -> None:
        seq = make_sequence(tokens, str(next(self.names)))
        cached = self.manager.find_cached_prefix(seq)
        if self.manager.can_start(cached, len(tokens)):
            self.manager.adopt_prefix(seq, cached)
            self.write(seq, len(tokens) - seq.num_computed_tokens)
            self.live.append(seq)

    @precondition(lambda self: self.live)
    @rule(count=st.integers(1, 4))
    def grow(self, count):
        seq = self.rng.choice(self.live)
        if self.manager.can_append([(seq, count)]):
            for _ in range(count):
                seq.data.add_token_id(self.rng.randrange(3))
            self.write(seq, count)

    @precondition(lambda self: self.live)
    @rule()
    def reject_a_draft(self):
        seq = self.rng.choice(self.live)
        if self.manager.can_append([(seq, 3)]):
            for source, target in self.manager.append_slots(seq, 3):
                self.memory[target] = list(self.memory[source])
            self.manager.trim(seq)

    @precondition(lambda self: self.live)
    @rule(part=st.booleans())
    def fork(self, part):
        parent = self.rng.choice(self.live)
        child = parent.fork(str(next(self.names)))
        count = self.rng.randint(1, parent.num_computed_tokens) if part else parent.num_computed_tokens
        child.data = SequenceData(parent.get_token_ids()[:count])
        child.block_hashes.clear()
        self.manager.fork(parent, child, count)
        self.live.append(child)

    @precondition(lambda self: self.live)
    @rule()
    def end(self):
        seq = self.live.pop(self.rng.randrange(len(self.live)))
        self.past.append(seq.get_token_ids())
        self.manager.free(seq)

    @precondition(lambda self: self.live)
    @rule(count=st.integers(1, 3))
    def swap_out(self, count):
        group = self.rng.sample(self.live, min(count, len(self.live)))
        if self.manager.can_swap_out(group):
            for device, host in self.manager.swap_out(group):
                self.host[host] = list(self.memory[device])
            for seq in group:
                self.live.remove(seq)
                seq.transition_to(SequenceStatus.RUNNING)
                seq.transition_to(SequenceStatus.SWAPPED)
            self.swapped.append(group)

    @precondition(lambda self: self.swapped)
    @rule(give_up=st.booleans())
    def swap_in(self, give_up):
        group = self.swapped[0]
        if give_up:
            for seq in self.swapped.pop(0):
                self.manager.free(seq)
        elif self.manager.can_swap_in(group, 0):
            for host, device in self.manager.swap_in(group):
                self.memory[device] = self.host.pop(host)
            for seq in self.swapped.pop(0):
                seq._status = SequenceStatus.WAITING
                self.live.append(seq)

    @invariant()
    def every_sequence_reads_back_its_tokens(self):
        size = self.manager.block_size if hasattr(self, "manager") else 1
        for seq in getattr(self, "live", ()):
            read = [self.memory[block][slot] for block in seq.block_ids for slot in range(size)]
            assert read[: seq.num_computed_tokens] == seq.get_token_ids()[: seq.num_computed_tokens]

    @invariant()
    def every_block_is_accounted_for(self):
        if not hasattr(self, "manager"):
            return
        swapped = [seq for group in self.swapped for seq in group]
        for pool, seqs in ((self.manager.gpu, self.live), (self.manager.cpu, swapped)):
            held = [block for seq in seqs for block in seq.block_ids]
            assert pool.ref_counts == [held.count(block) for block in range(len(pool.ref_counts))]
            free = [*pool._freed, *pool._evictable, *range(len(pool.ref_counts), pool.num_blocks)]
            assert sorted({*free, *held}) == list(range(pool.num_blocks))
            assert len(free) + len(set(held)) == pool.num_blocks

    def teardown(self):
        if hasattr(self, "manager"):
            for seq in [*self.live, *(seq for group in self.swapped for seq in group)]:
                self.manager.free(seq)
            for pool in (self.manager.gpu, self.manager.cpu):
                assert pool.num_free == pool.num_blocks


TestBlockMachine = BlockMachine.TestCase
TestBlockMachine.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
