"""The forward pass of Llama's family as one compiled call: no Python between two kernels.

Read :func:`forward` beside the paper: it is a page (Touvron et al. 2023, arXiv:2302.13971, section 2.2).
"""

from typing import Any, NamedTuple

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from folovllm.kernels.attention import attention
from folovllm.kernels.compiled import entry, kernel
from folovllm.kernels.elementwise import find_angles, rms_norm, rotate_and_store, silu_mul, take_rows
from folovllm.kernels.linear import linear
from folovllm.kernels.team import join, meet

(
    INPUT_NORM, QUERY, KEY, VALUE, OUTPUT, MLP_NORM, GATE, UP, DOWN, QUERY_NORM, KEY_NORM,
    QUERY_BIAS, KEY_BIAS, VALUE_BIAS, OUTPUT_BIAS, GATE_BIAS, UP_BIAS, DOWN_BIAS, NUM_PARAMETERS,
) = range(19)  # fmt: skip
"""Columns of ``Model.layers``."""

INPUT_EPS, MLP_EPS, QUERY_EPS, KEY_EPS, SCALING, NUM_CONSTANTS = range(6)
"""Columns of ``Model.constants``."""

LOOPS_PER_LAYER, OTHER_LOOPS = 14, 5


class Model(NamedTuple):
    """A model's parameters and sizes.

    layers: [num_layers, NUM_PARAMETERS], int64: where each parameter lies in memory; 0 for one that a model has not.
    constants: [num_layers, NUM_CONSTANTS], float32.  windows: [num_layers], int64; 0 for none.
    sizes: hidden size, heads, key and value heads, size of a head, size between the MLP's products.
    """

    layers: Any
    constants: Any
    windows: Any
    sizes: Any
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
    pieces, tables: as in :func:`folovllm.kernels.attention.attention`.
    """

    token_ids: Any
    positions: Any
    slots: Any
    rows: Any
    pieces: Any
    tables: Any


class Scratch(NamedTuple):
    """Room for what lies between kernels: [num_tokens, ...] each."""

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
    last: Any


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(typing_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.int64), generate


@kernel
def matrix_at(address, num_rows, num_columns):
    """Return the float32 matrix that lies at an address.

    numba has no list of arrays that is both quick and of one type for models of any depth; a table of addresses is.
    """
    return carray(_pointer(address), (num_rows, num_columns))


@kernel
def vector_at(address, size):
    """Return the float32 vector that lies at an address; at 0 there is one without elements."""
    return carray(_pointer(address), (size if address != 0 else 0,))


@kernel
def heads(x, head_dim):
    """Return rows as rows of heads: [n, num_heads, head_dim]."""
    return x.reshape(x.shape[0], x.shape[1] // head_dim, head_dim)


@kernel
def run_layer(team, layer, constants, window, head_dim, step, scratch, key_cache, value_cache, block_size):
    """One decoder layer: attention, then the MLP, each behind a norm, each added to what came in."""
    hidden, normed, attended = scratch.hidden, scratch.normed, scratch.attended
    queries, keys, values, gate, up = scratch.queries, scratch.keys, scratch.values, scratch.gate, scratch.up
    size, q_size, kv_size, mlp_size = hidden.shape[1], queries.shape[1], keys.shape[1], gate.shape[1]

    rms_norm(team, hidden, vector_at(layer[INPUT_NORM], size), constants[INPUT_EPS], normed)
    meet(team)
    linear(team, normed, matrix_at(layer[QUERY], q_size, size), vector_at(layer[QUERY_BIAS], q_size), queries, False)
    linear(team, normed, matrix_at(layer[KEY], kv_size, size), vector_at(layer[KEY_BIAS], kv_size), keys, False)
    linear(team, normed, matrix_at(layer[VALUE], kv_size, size), vector_at(layer[VALUE_BIAS], kv_size), values, False)
    meet(team)
    q, k, v = heads(queries, head_dim), heads(keys, head_dim), heads(values, head_dim)
    if layer[QUERY_NORM] != 0:  # Qwen3 normalizes queries and keys, head by head
        each_q, each_k = queries.reshape(-1, head_dim), keys.reshape(-1, head_dim)
        rms_norm(team, each_q, vector_at(layer[QUERY_NORM], head_dim), constants[QUERY_EPS], each_q)
        rms_norm(team, each_k, vector_at(layer[KEY_NORM], head_dim), constants[KEY_EPS], each_k)
        meet(team)
    rotate_and_store(team, q, k, v, scratch.cos, scratch.sin, step.slots, key_cache, value_cache)
    meet(team)
    attention(
        team, q, key_cache, value_cache, step.pieces, step.tables, block_size, constants[SCALING], window,
        heads(attended, head_dim),
    )  # fmt: skip
    meet(team)
    linear(team, attended, matrix_at(layer[OUTPUT], size, q_size), vector_at(layer[OUTPUT_BIAS], size), hidden, True)
    meet(team)
    rms_norm(team, hidden, vector_at(layer[MLP_NORM], size), constants[MLP_EPS], normed)
    meet(team)
    linear(team, normed, matrix_at(layer[GATE], mlp_size, size), vector_at(layer[GATE_BIAS], mlp_size), gate, False)
    linear(team, normed, matrix_at(layer[UP], mlp_size, size), vector_at(layer[UP_BIAS], mlp_size), up, False)
    meet(team)
    silu_mul(team, gate, up)
    meet(team)
    linear(team, gate, matrix_at(layer[DOWN], size, mlp_size), vector_at(layer[DOWN_BIAS], size), hidden, True)
    meet(team)


@entry
def forward(progress, model, step, scratch, cache, block_size, logits):
    """Fill in the logits that follow ``step.rows``: [num_rows, vocab].

    progress: counters of the threads that run this together (:mod:`folovllm.kernels.team`).
    cache: [num_layers, 2, num_slots, num_kv_heads, head_dim], keys and values.
    """
    team = join(progress)
    take_rows(team, model.embedding, step.token_ids, scratch.hidden)
    find_angles(team, step.positions, model.frequencies, model.rotary_scale, scratch.cos, scratch.sin)
    meet(team)
    for i in range(len(model.layers)):
        run_layer(
            team, model.layers[i], model.constants[i], model.windows[i], cache.shape[4], step, scratch,
            cache[i, 0], cache[i, 1], block_size,
        )  # fmt: skip
    take_rows(team, scratch.hidden, step.rows, scratch.last)
    meet(team)
    rms_norm(team, scratch.last, model.norm, model.norm_eps, scratch.last)
    meet(team)
    linear(team, scratch.last, model.head, model.head_bias, logits, False)
    meet(team)
