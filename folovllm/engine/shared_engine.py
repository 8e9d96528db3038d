"""One engine and all who use it at the same time: threads, streams, loops inside loops.

Whoever runs a step runs it for everybody, and puts the outputs into the mailboxes of those who made the requests.
"""

import copy
import itertools
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from weakref import WeakValueDictionary

from folovllm.engine.input_processor import Prompt
from folovllm.engine.llm_engine import LLMEngine
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import BeamSearchParams, SamplingParams

Params = SamplingParams | BeamSearchParams


class SharedEngine:
    """Runs requests for any number of callers."""

    def __init__(self, engine: LLMEngine) -> None:
        self._engine = engine
        self._lock, self._process = threading.RLock(), os.getpid()
        self._ids = itertools.count()
        # A caller holds its mailboxes, so they go with it; a request that was started and has none is abandoned.
        self._mailboxes: WeakValueDictionary[str, deque[RequestOutput]] = WeakValueDictionary()
        self._started: set[str] = set()
        self._undelivered: deque[RequestOutput] = deque()

    def new_ids(self, count: int) -> list[str]:
        """Return so many request ids that nobody had."""
        return [str(next(self._ids)) for _ in range(count)]

    def run(self, request_ids: list[str], prompts: list[Prompt], params: Sequence[Params]) -> Iterator[RequestOutput]:
        """Add requests and yield their outputs until all have finished; whatever happens, none is left behind."""
        mailboxes: dict[str, deque[RequestOutput]] = {request_id: deque() for request_id in request_ids}
        try:
            with self.exclusively():
                for request_id, prompt, each in zip(request_ids, prompts, params, strict=True):
                    self._mailboxes[request_id] = mailboxes[request_id]
                    self._started.add(request_id)
                    self._engine.add_request(request_id, prompt, each)
            while mailboxes:
                for output in self._step_for(mailboxes):
                    if output.error is not None:
                        number = 1 + request_ids.index(output.request_id)
                        raise _own(output.error, f"This ended the request of prompt {number} of {len(request_ids)}.")
                    if output.finished:
                        del mailboxes[output.request_id]
                    yield output
        finally:
            mailboxes.clear()
            self._abort_abandoned()

    def _step_for(self, mailboxes: Mapping[str, deque[RequestOutput]]) -> list[RequestOutput]:
        """Return what is there for these requests, after a step if there was nothing."""
        with self.exclusively():
            self._deliver()
            if not any(mailboxes.values()):
                self._undelivered.extend(self._engine.step())
                self._deliver()
            outputs: list[RequestOutput] = []
            for request_id in mailboxes:  # no mailbox gets a name here, which would keep it in an error's traceback
                if not mailboxes[request_id] and not self._engine.has_request(request_id):
                    raise RuntimeError(f"an interrupt lost the result of request {request_id}; generate it again")
                outputs += mailboxes[request_id]
                mailboxes[request_id].clear()
            return outputs

    def _deliver(self) -> None:
        """Put outputs into their mailboxes; what an interrupt leaves, the next one finds here."""
        while self._undelivered:
            output = self._undelivered[0]
            mailbox = self._mailboxes.get(output.request_id)
            if mailbox is not None:
                mailbox.append(output)
            self._undelivered.popleft()

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Have the engine for oneself; then end what was abandoned meanwhile."""
        if self._process != os.getpid():  # forked: whatever thread had the lock has stayed behind
            if self._engine.is_busy:
                raise RuntimeError(
                    "this process was forked while another thread was in the middle of a step: make another LLM here"
                )
            self._lock, self._process = threading.RLock(), os.getpid()
        try:
            with self._lock:
                yield
        finally:
            self._abort_abandoned()

    def _abort_abandoned(self) -> None:
        """End the requests whose mailbox is gone, for nobody reads it; or leave that to whoever has the engine now.

        Python may collect an abandoned stream at any moment in any thread, even inside a step: so nothing waits here.
        """
        while (abandoned := self._without_mailbox()) and self._lock.acquire(blocking=False):
            try:
                if self._engine.is_busy:  # collected inside this thread's own step, which looks here when it is over
                    return
                for request_id in abandoned:
                    self._engine.abort_request(request_id)
                    self._started.discard(request_id)
            finally:
                self._lock.release()

    def _without_mailbox(self) -> list[str]:
        return [request_id for request_id in list(self._started) if self._mailboxes.get(request_id) is None]


def _own(error: Exception, note: str) -> Exception:
    """Return an error with a note for one owner: others may have the same error, and get it without."""
    try:
        own = copy.copy(error).with_traceback(error.__traceback__)
    except Exception:  # one that cannot be made from its arguments
        own = error
    own.__cause__, own.__context__ = error.__cause__, error.__context__
    own.__notes__ = [*(each for each in getattr(error, "__notes__", []) if each != note), note]
    return own
