"""Who runs in the next step, with how many tokens, in which blocks.

First come, first served, under two budgets: ``max_num_batched_tokens`` a step and ``max_num_seqs``
running sequences. Requests that run go on first (so decoding is never starved by new prompts),
then swapped ones come back, then waiting ones start with what is left of the budgets; one whose
beginning another is just computing waits a step to share it. When blocks run out, the latest
request gives way. (vLLM: ``v1/core/sched/scheduler.py``; swapping and several sequences a request
are V0's ``core/scheduler.py``.)
"""

from collections import deque

from folovllm.config import SchedulerConfig
from folovllm.engine.block_manager import BlockManager
from folovllm.engine.prompt_lookup import propose_draft
from folovllm.request import Request, SequenceStatus
from folovllm.step import ScheduledSequence, SchedulerOutput


class Scheduler:
    """The queues of requests and the rule that picks from them."""

    def __init__(self, config: SchedulerConfig, block_manager: BlockManager) -> None:
        assert config.max_num_batched_tokens is not None, "the scheduler takes a resolved config"
        self.config = config
        self.max_num_batched_tokens = config.max_num_batched_tokens
        self.block_manager = block_manager
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.swapped: deque[Request] = deque()

    def add_request(self, request: Request) -> None:
        """Put a new request at the end of the waiting queue."""
        self.waiting.append(request)

    def has_unfinished_requests(self) -> bool:
        """Say whether anything is left to do."""
        return bool(self.waiting or self.running or self.swapped)

    def remove_request(self, request: Request) -> None:
        """Take a request out of its queue and give its blocks back."""
        for seq in request.sequences:
            self.block_manager.free(seq)
        for queue in (self.waiting, self.running, self.swapped):
            if request in queue:
                queue.remove(request)

    # -- one step --------------------------------------------------------------------------------

    def schedule(self) -> SchedulerOutput:
        """Choose the next step's tokens and give them their slots."""
        step = SchedulerOutput()
        self._schedule_running(step)
        if not step.preempted:
            self._schedule_swapped(step)
            if not self.swapped:
                self._schedule_waiting(step)
        assert step.scheduled or not self.has_unfinished_requests(), "a step must make progress"
        return step

    def _schedule_running(self, step: SchedulerOutput) -> None:
        index = 0
        while index < len(self.running):
            request = self.running[index]
            while not self._commit(self._plan(request, step), step):
                victim = self.running.pop()
                self._preempt(victim, step)
                if victim is request:
                    return
            index += 1

    def _schedule_swapped(self, step: SchedulerOutput) -> None:
        while self.swapped:
            request = self.swapped[0]
            seqs = request.get_unfinished_seqs()
            # Beside others, one block more a sequence: to come back and be preempted at once would help nobody.
            spare = len(seqs) if self.running else 0
            if not self._has_seats(request) or not self.block_manager.can_swap_in(seqs, spare):
                return
            step.blocks_to_swap_in += self.block_manager.swap_in(seqs)
            self._start(self.swapped, step)

    def _schedule_waiting(self, step: SchedulerOutput) -> None:
        while self.waiting and step.num_batched_tokens < self.max_num_batched_tokens:
            request = self.waiting[0]
            seqs = request.get_unfinished_seqs()
            if not self._has_seats(request):
                return
            cached = [] if self._needs_prompt_logits(request) else self.block_manager.find_cached_prefix(seqs[0])
            num_cached = len(cached) * self.block_manager.block_size
            if self._should_wait_for_prefix(request, len(cached), step):
                return
            num_tokens = self._num_new_tokens(seqs[0].get_len() - num_cached, step)
            if num_tokens == 0 or not self.block_manager.can_start(cached, num_cached + num_tokens):
                return
            self.block_manager.adopt_prefix(seqs[0], cached)
            if request.num_cached_tokens is None:
                request.num_cached_tokens = num_cached
            self._start(self.waiting, step)

    def _should_wait_for_prefix(self, request: Request, num_cached: int, step: SchedulerOutput) -> bool:
        """Say whether this step computes, for someone else, at least half of what ``request`` still needs.

        num_cached: how many blocks of its prompt can be found already.

        One step later the request finds those blocks; computing them twice, side by side, would take
        longer. Nobody overtakes it meanwhile, and it cannot wait for ever: what it waits for is
        computed when the step is done.
        """
        if self._needs_prompt_logits(request):
            return False
        seq = request.get_unfinished_seqs()[0]
        items = ((item.sequence, item.start, item.start + item.num_known_tokens) for item in step.scheduled)
        num_saved = self.block_manager.count_arriving_blocks(seq, num_cached, items) * self.block_manager.block_size
        return num_saved > 0 and 2 * num_saved >= seq.get_len() - num_cached * self.block_manager.block_size

    def _start(self, queue: deque[Request], step: SchedulerOutput) -> None:
        """Move the first request of a queue to the running ones and give it its share of the step."""
        request = queue.popleft()
        for seq in request.get_unfinished_seqs():
            seq.transition_to(SequenceStatus.RUNNING)
        self.running.append(request)
        self._commit(self._plan(request, step), step)

    def _has_seats(self, request: Request) -> bool:
        return sum(each.num_seats for each in [*self.running, request]) <= self.config.max_num_seqs

    @staticmethod
    def _needs_prompt_logits(request: Request) -> bool:
        """Say whether the prompt must run through the model although its blocks may be known."""
        return 0 < len(request.prompt_logprobs) < len(request.prompt_token_ids)

    # -- planning a request's share of a step ----------------------------------------------------------

    def _num_new_tokens(self, remaining: int, step: SchedulerOutput, planned: int = 0) -> int:
        """Return how many of ``remaining`` tokens the step still takes; 0 for none."""
        budget = self.max_num_batched_tokens - step.num_batched_tokens - planned
        if self.config.enable_chunked_prefill:
            return min(remaining, budget)
        return remaining if remaining <= budget else 0

    def _plan(self, request: Request, step: SchedulerOutput) -> list[ScheduledSequence]:
        """Return what the budget allows of a running request's sequences."""
        plan: list[ScheduledSequence] = []
        planned = 0
        unfinished = request.get_unfinished_seqs()
        followers = [seq for seq in unfinished[1:] if not seq.block_ids]
        for seq in unfinished:
            if seq in followers:
                continue
            start = seq.num_computed_tokens
            num_tokens = self._num_new_tokens(seq.get_len() - start, step, planned)
            if num_tokens == 0:
                continue
            item = ScheduledSequence(request, seq, start, seq.data.get_slice(start, start + num_tokens))
            if item.is_sampled and not seq.data.output_token_ids:
                item.followers = followers
            self._add_draft(item, self.max_num_batched_tokens - step.num_batched_tokens - planned)
            planned += len(item.token_ids)
            plan.append(item)
        return plan

    def _add_draft(self, item: ScheduledSequence, budget: int) -> None:
        """Let a decoding sequence guess its next tokens, as far as the budget and its length allow."""
        seq = item.sequence
        decodes = item.num_known_tokens == 1 and item.is_sampled and seq.data.output_token_ids
        if not self.config.num_speculative_tokens or not decodes or item.request.beam_state is not None:
            return
        assert item.request.max_tokens is not None, "the engine sets max_tokens when it takes a request"
        # The token that is drawn after the draft needs no guess, hence one less.
        room = item.request.max_tokens - seq.data.get_output_len() - 1
        num_tokens = min(self.config.num_speculative_tokens, budget - 1, room)
        draft = propose_draft(seq.get_token_ids(), num_tokens, self.config.prompt_lookup_max)
        item.token_ids = item.token_ids + draft
        item.num_draft_tokens = len(draft)

    def _commit(self, plan: list[ScheduledSequence], step: SchedulerOutput) -> bool:
        """Give a plan its slots and put it into the step; False, and nothing changed, if blocks are short."""
        if not self._fits(plan):
            plan = [item.without_draft() for item in plan]  # a guess is not worth a preemption
            if not self._fits(plan):
                return False
        for item in plan:
            step.blocks_to_copy += self.block_manager.append_slots(item.sequence, len(item.token_ids))
        step.add(plan)
        return True

    def _fits(self, plan: list[ScheduledSequence]) -> bool:
        return self.block_manager.can_append((item.sequence, len(item.token_ids)) for item in plan)

    def _preempt(self, request: Request, step: SchedulerOutput) -> None:
        """Take a request's blocks: by swap if several sequences live and the host has room, else by recompute."""
        seqs = request.get_unfinished_seqs()
        swap = len(seqs) > 1 and self.block_manager.can_swap_out(seqs)
        if swap:
            step.blocks_to_swap_out += self.block_manager.swap_out(seqs)
            self.swapped.appendleft(request)
        else:
            for seq in seqs:
                self.block_manager.free(seq)
            self.waiting.appendleft(request)
        status = SequenceStatus.SWAPPED if swap else SequenceStatus.WAITING
        for seq in seqs:
            seq.transition_to(status)
        step.preempted[request.request_id] = status

    # -- after the forward pass ------------------------------------------------------------------------

    def mark_computed(self, item: ScheduledSequence, num_accepted: int = 0) -> None:
        """Record that an item went through the model and ``num_accepted`` of its guesses were right.

        Full blocks become findable, slots of wrong guesses go back, and sequences that waited
        for the prompt get their share of its blocks.
        """
        seq = item.sequence
        seq.num_computed_tokens = item.start + item.num_known_tokens + num_accepted
        self.block_manager.trim(seq)
        self.block_manager.remember_full_blocks(seq, item.start)
        prompt_len = seq.data.get_prompt_len()
        if seq.num_computed_tokens >= prompt_len:
            for other in item.request.get_unfinished_seqs():
                if not other.block_ids:
                    self.block_manager.fork(seq, other, prompt_len)

    def free_finished(self) -> None:
        """Give back the blocks of sequences that have ended, and drop requests that are done."""
        for request in self.running:
            for seq in request.sequences:
                if seq.is_finished():
                    self.block_manager.free(seq)
        self.running = [request for request in self.running if not request.is_finished()]

    def requeue(self, requests: list[Request]) -> None:
        """Start over with empty blocks: ``requests``, in order of arrival, wait again unless they have ended.

        For an interrupted step, after which nobody knows which block holds what.
        """
        manager = self.block_manager
        self.block_manager = BlockManager(
            manager.block_size, manager.gpu.num_blocks, manager.cpu.num_blocks, manager.enable_prefix_caching
        )
        for request in requests:
            for seq in request.sequences:
                seq.block_ids = []
                seq.num_computed_tokens = 0
                if not seq.is_finished() and seq.status != SequenceStatus.WAITING:
                    seq.transition_to(SequenceStatus.WAITING)
        self.running, self.swapped = [], deque()
        self.waiting = deque(request for request in requests if not request.is_finished())
