"""KV blocks: who owns which, shared by reference count, found again by prefix hash, swapped to the host.

Only numbers live here. The tensors behind the block ids are in ``models/kv_cache.py``; the copies this
module asks for are pairs ``(source, destination)`` that the model runner carries out before the
next forward pass. (vLLM: ``v1/core/block_pool.py``, ``v1/core/kv_cache_manager.py``; swapping is
V0's ``core/block_manager.py``.) Kwon et al. 2023, arXiv:2309.06180.
"""

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable

from folovllm.request import Sequence
from folovllm.step import BlockCopy


def hash_block(parent: bytes, token_ids: list[int]) -> bytes:
    """Hash one full block: its own tokens, chained to the hash of everything before it.

    SHA-256, so that equal hashes mean equal prefixes: two prompts that collide are not to be found.
    """
    return hashlib.sha256(parent + array("q", token_ids).tobytes()).digest()


class BlockPool:
    """The blocks of one memory: each free, or held by ``ref_counts[id]`` sequences.

    A freed block whose content has a hash stays findable until it is needed for something else;
    the least recently used one goes first. Blocks that nobody had yet have no entry: there may be a million of them.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.ref_counts: list[int] = []
        self._freed: list[int] = []
        self._evictable: OrderedDict[int, None] = OrderedDict()
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Count the blocks that nobody holds, remembered content or not."""
        return self.num_blocks - len(self.ref_counts) + len(self._freed) + len(self._evictable)

    @property
    def num_cached(self) -> int:
        """Count the free blocks whose content can still be found by its hash."""
        return len(self._evictable)

    def allocate(self) -> int:
        """Take a free block; one with remembered content only when no other is left."""
        if self._freed:
            block_id = self._freed.pop()
        elif len(self.ref_counts) < self.num_blocks:
            block_id = len(self.ref_counts)
            self.ref_counts.append(0)
        else:
            block_id, _ = self._evictable.popitem(last=False)
            self.forget(block_id)
        self.ref_counts[block_id] = 1
        return block_id

    def share(self, block_id: int) -> None:
        """Add one holder, also to a free block whose content was found again."""
        if self.ref_counts[block_id] == 0:
            del self._evictable[block_id]
        self.ref_counts[block_id] += 1

    def release(self, block_id: int) -> None:
        """Take one holder away; the last one frees the block."""
        assert self.ref_counts[block_id] > 0, f"block {block_id} is freed twice"
        self.ref_counts[block_id] -= 1
        if self.ref_counts[block_id] == 0:
            if block_id in self._hash_of:
                self._evictable[block_id] = None
            else:
                self._freed.append(block_id)

    def find(self, block_hash: bytes) -> int | None:
        """Return the block with this content, or None."""
        return self._block_of.get(block_hash)

    def is_free(self, block_id: int) -> bool:
        """Say whether nobody holds the block."""
        return self.ref_counts[block_id] == 0

    def remember(self, block_id: int, block_hash: bytes) -> None:
        """Make a held, full block findable. A second block of equal content stays anonymous."""
        if block_hash not in self._block_of and block_id not in self._hash_of:
            self._block_of[block_hash] = block_id
            self._hash_of[block_id] = block_hash

    def forget(self, block_id: int) -> None:
        """Make the block's content unfindable, because it is about to change."""
        block_hash = self._hash_of.pop(block_id, None)
        if block_hash is not None:
            del self._block_of[block_hash]

    def forget_free_blocks(self) -> None:
        """Make the content of all free blocks unfindable."""
        while self._evictable:
            block_id, _ = self._evictable.popitem(last=False)
            self.forget(block_id)
            self._freed.append(block_id)


class BlockManager:
    """Gives sequences the blocks for their tokens.

    block_size: tokens a block.  num_gpu_blocks: of the device (also when that is the CPU).
    num_cpu_blocks: of the host pool that preempted requests are swapped to.
    """

    def __init__(
        self, block_size: int, num_gpu_blocks: int, num_cpu_blocks: int = 0, enable_prefix_caching: bool = True
    ) -> None:
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self.gpu = BlockPool(num_gpu_blocks)
        self.cpu = BlockPool(num_cpu_blocks)

    def blocks_for(self, num_tokens: int) -> int:
        """Count the blocks that ``num_tokens`` tokens take."""
        return -(-num_tokens // self.block_size)

    def max_blocks_needed(self, prompt_len: int, max_len: int, num_seqs: int) -> int:
        """Count the blocks that ``num_seqs`` sequences of one prompt hold when each has ``max_len`` tokens.

        The prompt's full blocks are shared. The last token is never computed, so it needs no slot.
        """
        shared = prompt_len // self.block_size
        return shared + num_seqs * (self.blocks_for(max_len - 1) - shared)

    # -- prefix caching ------------------------------------------------------------------------

    def _full_block_hashes(self, seq: Sequence, num_tokens: int) -> list[bytes]:
        """Return the chained hashes of the full blocks among the first ``num_tokens`` tokens."""
        num_full = num_tokens // self.block_size
        if len(seq.block_hashes) < num_full:
            token_ids = seq.get_token_ids()
            for i in range(len(seq.block_hashes), num_full):
                parent = seq.block_hashes[-1] if i else b""
                seq.block_hashes.append(hash_block(parent, token_ids[i * self.block_size : (i + 1) * self.block_size]))
        return seq.block_hashes[:num_full]

    def find_cached_prefix(self, seq: Sequence) -> list[int]:
        """Return the blocks that already hold the longest known prefix of ``seq``.

        At least the last token is left out: its logits are needed, and only a forward pass gives them.
        """
        if not self.enable_prefix_caching:
            return []
        found: list[int] = []
        for block_hash in self._full_block_hashes(seq, seq.get_len() - 1):
            block_id = self.gpu.find(block_hash)
            if block_id is None:
                break
            found.append(block_id)
        return found

    def count_arriving_blocks(self, seq: Sequence, num_cached: int, items: Iterable[tuple[Sequence, int, int]]) -> int:
        """Count the blocks of ``seq``, from block ``num_cached`` on, that others are about to fill.

        items: (sequence, first position, last position + 1) of what is being computed.
        """
        if not self.enable_prefix_caching:
            return 0
        arriving: set[bytes] = set()
        for other, start, end in items:
            arriving.update(self._full_block_hashes(other, end)[start // self.block_size :])
        wanted = self._full_block_hashes(seq, seq.get_len() - 1)[num_cached:]
        return next((i for i, block_hash in enumerate(wanted) if block_hash not in arriving), len(wanted))

    def adopt_prefix(self, seq: Sequence, block_ids: list[int]) -> None:
        """Start ``seq`` on blocks that hold its first tokens already."""
        assert not seq.block_ids, f"{seq.seq_id} has blocks already"
        for block_id in block_ids:
            self.gpu.share(block_id)
        seq.block_ids = list(block_ids)
        seq.num_computed_tokens = len(block_ids) * self.block_size

    def remember_full_blocks(self, seq: Sequence, start: int) -> None:
        """Make findable the blocks that were filled since position ``start``."""
        if self.enable_prefix_caching:
            hashes = self._full_block_hashes(seq, seq.num_computed_tokens)
            for i in range(start // self.block_size, len(hashes)):
                self.gpu.remember(seq.block_ids[i], hashes[i])

    # -- growing, sharing, freeing ---------------------------------------------------------------

    def can_append(self, plan: Iterable[tuple[Sequence, int]]) -> bool:
        """Say whether every sequence of the plan can get slots for its number of new tokens at once."""
        needed = 0
        writers: Counter[int] = Counter()
        for seq, num_tokens in plan:
            needed += self.blocks_for(seq.num_computed_tokens + num_tokens) - len(seq.block_ids)
            if seq.num_computed_tokens % self.block_size:
                writers[seq.block_ids[-1]] += 1
        # Of r holders that all write, r - 1 copy the block and the last one keeps it.
        needed += sum(min(count, self.gpu.ref_counts[block] - 1) for block, count in writers.items())
        return needed <= self.gpu.num_free

    def can_start(self, cached: list[int], num_tokens: int) -> bool:
        """Say whether a new sequence can get slots for its first ``num_tokens`` tokens, ``cached`` among them."""
        revived = sum(self.gpu.is_free(block_id) for block_id in cached)
        return self.blocks_for(num_tokens) - len(cached) + revived <= self.gpu.num_free

    def append_slots(self, seq: Sequence, num_tokens: int) -> list[BlockCopy]:
        """Give ``seq`` slots for its next ``num_tokens`` tokens; return the copies that this needs first.

        Copy on write: a partly filled block that others hold too is replaced by a copy.
        """
        copies: list[BlockCopy] = []
        if seq.num_computed_tokens % self.block_size:
            last = seq.block_ids[-1]
            if self.gpu.ref_counts[last] > 1:
                seq.block_ids[-1] = self.gpu.allocate()
                self.gpu.release(last)
                copies.append((last, seq.block_ids[-1]))
            else:
                self.gpu.forget(last)
        while len(seq.block_ids) < self.blocks_for(seq.num_computed_tokens + num_tokens):
            seq.block_ids.append(self.gpu.allocate())
        return copies

    def fork(self, parent: Sequence, child: Sequence, num_tokens: int | None = None) -> None:
        """Let ``child`` share the parent's blocks of the first ``num_tokens`` tokens (default: all computed)."""
        assert not child.block_ids, f"{child.seq_id} has blocks already"
        if num_tokens is None:
            num_tokens = parent.num_computed_tokens
        child.block_ids = parent.block_ids[: self.blocks_for(num_tokens)]
        child.num_computed_tokens = num_tokens
        for block_id in child.block_ids:
            self.gpu.share(block_id)

    def trim(self, seq: Sequence) -> None:
        """Give back the blocks beyond the computed tokens (slots of rejected drafts)."""
        while len(seq.block_ids) > self.blocks_for(seq.num_computed_tokens):
            self.gpu.release(seq.block_ids.pop())

    def free(self, seq: Sequence) -> None:
        """Give all its blocks back; the tail first, so that a shared beginning is remembered longest."""
        pool = self.cpu if seq.status == "swapped" else self.gpu
        while seq.block_ids:
            pool.release(seq.block_ids.pop())
        seq.num_computed_tokens = 0

    # -- swapping ------------------------------------------------------------------------------

    @staticmethod
    def _distinct_blocks(seqs: Iterable[Sequence]) -> list[int]:
        return list(dict.fromkeys(block_id for seq in seqs for block_id in seq.block_ids))

    def can_swap_out(self, seqs: list[Sequence]) -> bool:
        """Say whether the host pool has room for all their blocks."""
        return len(self._distinct_blocks(seqs)) <= self.cpu.num_free

    def can_swap_in(self, seqs: list[Sequence], num_extra_blocks: int) -> bool:
        """Say whether the device has room for all their blocks and ``num_extra_blocks`` more."""
        return len(self._distinct_blocks(seqs)) + num_extra_blocks <= self.gpu.num_free

    def swap_out(self, seqs: list[Sequence]) -> list[BlockCopy]:
        """Move their blocks to the host pool, shared ones once; return the (device, host) copies."""
        return self._move(seqs, self.gpu, self.cpu)

    def swap_in(self, seqs: list[Sequence]) -> list[BlockCopy]:
        """Move their blocks back to the device; return the (host, device) copies."""
        return self._move(seqs, self.cpu, self.gpu)

    def _move(self, seqs: list[Sequence], source: BlockPool, target: BlockPool) -> list[BlockCopy]:
        moved: dict[int, int] = {}
        for seq in seqs:
            for i, block_id in enumerate(seq.block_ids):
                if block_id in moved:
                    target.share(moved[block_id])
                else:
                    moved[block_id] = target.allocate()
                source.release(block_id)
                seq.block_ids[i] = moved[block_id]
        return list(moved.items())
