"""The forward pass of Llama's family as one compiled call: no Python between two kernels.

Read :func:`forward` beside the paper: it is a page (Touvron et al. 2023, arXiv:2302.13971, section 2.2).
"""

from typing import Any, NamedTuple

from numba import carray, types
from numba.extending import intrinsic

from folovllm.kernels.attention import attention, make_room
from folovllm.kernels.compiled import entry, kernel, maker
from folovllm.kernels.elementwise import find_angles, rms_norm, rotate_and_store, silu_mul, take_rows
from folovllm.kernels.linear import linear
from folovllm.kernels.team import THREADS, join, meet

QUERY, KEY, VALUE, OUTPUT, GATE, UP, DOWN = range(7)
"""Columns of ``Model.layers``: the weights, then from :data:`BIAS` on a bias for each of them, then the norms'."""

BIAS = 7
INPUT_NORM, MLP_NORM, QUERY_NORM, KEY_NORM = range(14, 18)

INPUT_EPS, MLP_EPS, QUERY_EPS, KEY_EPS, SCALING = range(5)
"""Columns of ``Model.constants``."""

_LOOPS_OF_A_LAYER, _OTHER_LOOPS = 14, 5
"""How often the functions below call on :func:`folovllm.kernels.team.shares`, at most."""


class Model(NamedTuple):
    """A model's parameters.

    layers: [num_layers, 18], int64: where each parameter lies in memory; 0 for one that a model has not.
    constants: [num_layers, 5], float32.  windows: [num_layers], int64; 0 for none.
    embedding, head: [vocab, hidden_size].  norm: [hidden_size].  head_bias: [vocab], or [0] for none.
    frequencies: [head_dim / 2], radians from one position to the next.  rotary_scale: a factor of their cosines.
    """

    layers: Any
    constants: Any
    windows: Any
    embedding: Any
    norm: Any
    norm_eps: Any
    head: Any
    head_bias: Any
    frequencies: Any
    rotary_scale: Any


class Step(NamedTuple):
    """What one step computes: tokens of several sequences side by side; all int64.

    token_ids, positions, slots: [num_tokens].  rows: [num_rows], the tokens that logits are wanted of.
    pieces, bundles, seen: as in :func:`folovllm.kernels.attention.attention`, where ``seen`` are its slots.
    """

    token_ids: Any
    positions: Any
    slots: Any
    rows: Any
    pieces: Any
    bundles: Any
    seen: Any


class Scratch(NamedTuple):
    """Room for what lies between kernels: [num_tokens, width] each."""

    hidden: Any
    normed: Any
    queries: Any
    keys: Any
    values: Any
    attended: Any
    gate: Any
    up: Any
    cos: Any
    sin: Any


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(typing_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.int64), generate


@maker
def matrix_at(address, num_rows, num_columns):
    """Return the float32 matrix that lies at an address.

    numba has no list of arrays that is both quick and of one type for models of any depth; a table of addresses is.
    """
    return carray(_pointer(address), (num_rows, num_columns))


@maker
def vector_at(address, size):
    """Return the float32 vector that lies at an address; at 0 there is one without elements."""
    return carray(_pointer(address), (size if address != 0 else 0,))


@kernel
def project(team, x, layer, which, out, add):
    """``out = x @ weight.T + bias`` with one of a layer's weights; with ``add`` that much more than it was."""
    weight = matrix_at(layer[which], out.shape[1], x.shape[1])
    linear(team, x, weight, vector_at(layer[BIAS + which], out.shape[1]), out, add)


@kernel
def run_attention(team, layer, constants, window, step, scratch, room, keys, values):
    """From ``normed`` to ``attended``.  keys, values: [num_blocks, block_size, num_kv_heads, head_dim], one layer."""
    num_blocks, block_size, num_kv_heads, head_dim = keys.shape
    project(team, scratch.normed, layer, QUERY, scratch.queries, False)
    project(team, scratch.normed, layer, KEY, scratch.keys, False)
    project(team, scratch.normed, layer, VALUE, scratch.values, False)
    meet(team)
    num_tokens = len(scratch.queries)
    q = scratch.queries.reshape(num_tokens, -1, head_dim)
    k = scratch.keys.reshape(num_tokens, num_kv_heads, head_dim)
    v = scratch.values.reshape(num_tokens, num_kv_heads, head_dim)
    if layer[QUERY_NORM] != 0:  # Qwen3 normalizes queries and keys, head by head
        each_q, each_k = scratch.queries.reshape(-1, head_dim), scratch.keys.reshape(-1, head_dim)
        rms_norm(team, each_q, vector_at(layer[QUERY_NORM], head_dim), constants[QUERY_EPS], each_q)
        rms_norm(team, each_k, vector_at(layer[KEY_NORM], head_dim), constants[KEY_EPS], each_k)
        meet(team)
    keys = keys.reshape(num_blocks * block_size, num_kv_heads, head_dim)
    values = values.reshape(num_blocks * block_size, num_kv_heads, head_dim)
    rotate_and_store(team, q, k, v, scratch.cos, scratch.sin, step.slots, keys, values)
    meet(team)
    out = scratch.attended.reshape(num_tokens, -1, head_dim)
    attention(team, q, keys, values, step.pieces, step.bundles, step.seen, constants[SCALING], window, room, out)
    meet(team)


@kernel
def run_layer(team, layer, constants, window, step, scratch, room, keys, values):
    """One decoder layer: attention, then the MLP, each behind a norm, each added to what came in."""
    hidden, normed = scratch.hidden, scratch.normed
    rms_norm(team, hidden, vector_at(layer[INPUT_NORM], hidden.shape[1]), constants[INPUT_EPS], normed)
    meet(team)
    run_attention(team, layer, constants, window, step, scratch, room, keys, values)
    project(team, scratch.attended, layer, OUTPUT, hidden, True)
    meet(team)
    rms_norm(team, hidden, vector_at(layer[MLP_NORM], hidden.shape[1]), constants[MLP_EPS], normed)
    meet(team)
    project(team, normed, layer, GATE, scratch.gate, False)
    project(team, normed, layer, UP, scratch.up, False)
    meet(team)
    silu_mul(team, scratch.gate, scratch.up)
    meet(team)
    project(team, scratch.gate, layer, DOWN, hidden, True)
    meet(team)


@entry
def forward(progress, model, step, scratch, cache, logits):
    """Fill in the logits that follow ``step.rows``: [num_rows, vocab].

    progress: counters of the threads that run this together (:mod:`folovllm.kernels.team`).
    cache: [num_layers, 2, num_blocks, block_size, num_kv_heads, head_dim], keys and values.
    """
    team = join(progress)
    take_rows(team, model.embedding, step.token_ids, scratch.hidden)
    find_angles(team, step.positions, model.frequencies, model.rotary_scale, scratch.cos, scratch.sin)
    meet(team)
    num_kv_heads, head_dim = cache.shape[4:]
    group = scratch.queries.shape[1] // (num_kv_heads * head_dim)
    room = make_room(step.pieces, step.bundles, step.seen, group, head_dim)
    for i in range(len(model.layers)):
        layer, constants, window = model.layers[i], model.constants[i], model.windows[i]
        run_layer(team, layer, constants, window, step, scratch, room, cache[i, 0], cache[i, 1])
    last = scratch.normed[: len(step.rows)]
    take_rows(team, scratch.hidden, step.rows, last)
    meet(team)
    rms_norm(team, last, model.norm, model.norm_eps, last)
    meet(team)
    linear(team, last, model.head, model.head_bias, logits, False)
    meet(team)


def run(num_threads: int, model: Model, step: Step, scratch: Scratch, cache: Any, logits: Any) -> None:
    """Run :func:`forward` on so many threads."""
    num_loops = _OTHER_LOOPS + _LOOPS_OF_A_LAYER * len(model.layers)
    THREADS.run(num_threads, num_loops, forward, model, step, scratch, cache, logits)
