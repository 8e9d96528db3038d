"""What several test files ask of an engine."""

from folovllm import LLM
from folovllm.engine.llm_engine import LLMEngine


def assert_at_rest(owner: LLM | LLMEngine) -> None:
    """Check that nothing is left of any request: no block held or lost, no queue, no text, no host copy, no inbox."""
    engine = owner.llm_engine if isinstance(owner, LLM) else owner
    assert not engine.has_unfinished_requests()
    assert not engine.scheduler.has_unfinished_requests()
    for pool in (engine.scheduler.block_manager.gpu, engine.scheduler.block_manager.cpu):
        assert pool.num_free == pool.num_blocks  # free and cached ones together
        assert not any(pool.ref_counts)
        assert len({*pool._freed, *pool._evictable}) == len(pool.ref_counts)
    assert engine.output_processor._detokenizers == {}
    assert engine.model_runner.kv_cache._host == {}
    if isinstance(owner, LLM):
        assert not owner._shared._mailboxes
        assert not owner._shared._started
        assert not owner._shared._undelivered
