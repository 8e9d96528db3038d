"""What the engine has done since it started, as numbers. (vLLM: ``v1/metrics/``, read with ``LLM.get_metrics()``.)"""

from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from folovllm.engine.scheduler import Scheduler
from folovllm.outputs import RequestOutput
from folovllm.request import Request
from folovllm.step import SchedulerOutput


@dataclass(frozen=True)
class Metric:
    """One number.  name: vLLM's, less the prefix ``vllm:``.  labels: what it was counted for, if for one thing only."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


class Counter(Metric):
    """A number that only grows."""


class Gauge(Metric):
    """A number as it is now."""


_COUNTERS = (
    "num_requests",
    "prompt_tokens",
    "generation_tokens",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "num_preemptions",
    "spec_decode_num_drafts",
    "spec_decode_num_draft_tokens",
    "spec_decode_num_accepted_tokens",
)


class MetricsLog:
    """Counts what steps and requests did. An interrupted step is done again, and counts once.

    Only an interrupt in the very act of counting can cost a count.
    """

    def __init__(self) -> None:
        self._counts: Tally[str] = Tally()
        self._finished: Tally[str] = Tally()

    def count_request(self, request: Request) -> None:
        """Count a request that the engine has taken."""
        self._counts["num_requests"] += 1
        self._counts["prompt_tokens"] += len(request.prompt_token_ids)

    def count_start(self, request: Request) -> None:
        """Count what a request that runs for the first time found in the prefix cache."""
        self._counts["prefix_cache_queries"] += len(request.prompt_token_ids)
        self._counts["prefix_cache_hits"] += request.num_cached_tokens or 0

    def count_step(self, step: SchedulerOutput, num_taken: Mapping[str, int]) -> None:
        """Count a finished step.  num_taken: how many drawn tokens each sequence took, by ``seq_id``."""
        counts = self._counts
        counts["num_preemptions"] += len(step.preempted)
        for item in step.scheduled:
            if item.draft:
                counts["spec_decode_num_drafts"] += 1
                counts["spec_decode_num_draft_tokens"] += len(item.draft)
                counts["spec_decode_num_accepted_tokens"] += max(0, num_taken.get(item.sequence.seq_id, 0) - 1)

    def count_end(self, request: Request, output: RequestOutput) -> None:
        """Count a request that has ended, by what ended its first text: "error" where it failed.

        It may be reported twice, when an interrupt comes between; it counts once.
        """
        if not request.is_counted:
            request.is_counted = True
            self._counts["generation_tokens"] += _num_output_tokens(request)
            self._finished[str(output.outputs[0].finish_reason) if output.outputs else "error"] += 1

    def read(self, scheduler: Scheduler, requests: Iterable[Request]) -> list[Metric]:
        """Return all numbers: the counters in a fixed order, then how things stand in the queues and the cache.

        requests: those that have not ended.
        """
        pool = scheduler.block_manager.gpu
        counts = self._counts + Tally(generation_tokens=sum(map(_num_output_tokens, requests)))
        gauges = {
            "num_requests_running": len(scheduler.running),
            "num_requests_waiting": len(scheduler.waiting),
            "num_requests_swapped": len(scheduler.swapped),
            "kv_cache_usage_perc": 1 - pool.num_free / pool.num_blocks,
        }
        return [
            *(Counter(name, counts[name]) for name in _COUNTERS),
            *(Counter("request_success", n, {"finished_reason": why}) for why, n in sorted(self._finished.items())),
            *(Gauge(name, value) for name, value in gauges.items()),
        ]


def _num_output_tokens(request: Request) -> int:
    return sum(seq.data.get_output_len() for seq in request.sequences)
