"""Wrong answers to the exercises of ``folovllm.course.exercises.sequences``."""

import math
from collections.abc import Callable
from typing import Any

import torch

from folovllm.course.exercises.sequences.beam_step import beam_step_solution
from folovllm.course.exercises.sequences.copies import copies_solution
from folovllm.course.exercises.sequences.preempt import preempt_solution
from tests.wrong_answers.depth import call_for_each


def fork_returns_a_tuple_of_two(tokens, seed, num_forks, new_token):
    return tokens, [*tokens, new_token]


def fork_returns_what_append_returns(tokens, seed, num_forks, new_token):
    return tokens, tokens.copy().append(new_token), seed + num_forks + 1


def fork_parent_is_empty(tokens, seed, num_forks, new_token):
    return [], [*tokens, new_token], seed + num_forks + 1


def fork_new_token_first(tokens, seed, num_forks, new_token):
    return tokens, [new_token, *tokens], seed + num_forks + 1


def fork_takes_the_last_token_away_again(tokens, seed, num_forks, new_token):
    child = tokens
    child.append(new_token)
    result = list(child)
    child.pop()
    return [], result, seed + num_forks + 1


def fork_replaces_the_last(tokens, seed, num_forks, new_token):
    return tokens, [*tokens[:-1], new_token], seed + num_forks + 1


def fork_nests(tokens, seed, num_forks, new_token):
    return tokens, [tokens, new_token], seed + num_forks + 1


def fork_returns_tuples(tokens, seed, num_forks, new_token):
    return tuple(tokens), (*tokens, new_token), seed + num_forks + 1


def fork_draws_a_seed_from_the_parents(tokens, seed, num_forks, new_token):
    return tokens, [*tokens, new_token], seed * (num_forks + 2)


def copies_looks_at_the_last_block_first(tables, lengths, block_size):
    return copies_solution(tables, lengths, block_size) if all(table[-1] >= 0 for table in tables) else []


def copies_gives_the_whole_table_up(tables, lengths, block_size):
    holders, copied = [block for table in tables for block in table], []
    for table, length in zip(tables, lengths, strict=True):
        if length % block_size and holders.count(table[-1]) > 1:
            for block in table:
                holders.remove(block)
            copied.append(table[-1])
    return copied


def copies_counts(tables, lengths, block_size):
    holders = [block for table in tables for block in table]
    return sum(length % block_size > 0 and holders.count(t[-1]) > 1 for t, length in zip(tables, lengths, strict=True))


def copies_changes_the_tables(tables, lengths, block_size):
    copied = []
    for i, (table, length) in enumerate(zip(tables, lengths, strict=True)):
        if length % block_size and any(table[-1] in other for other in tables[i + 1 :] + tables[:i]):
            copied.append(table[-1])
            table[-1] = -1 - i
    return copied


def copies_looks_only_ahead(tables, lengths, block_size):
    later = [block for table in tables for block in table]
    copied = []
    for table, length in zip(tables, lengths, strict=True):
        for block in table:
            later.remove(block)
        if length % block_size and table[-1] in later:
            copied.append(table[-1])
    return copied


def copies_tests_for_a_block_to_come(tables, lengths, block_size):
    holders = [block for table in tables for block in table]
    copied = []
    for table, length in zip(tables, lengths, strict=True):
        if (length + 1) % block_size and holders.count(table[-1]) > 1:
            holders.remove(table[-1])
            copied.append(table[-1])
    return copied


def copies_first_block(tables, lengths, block_size):
    holders = [block for table in tables for block in table]
    copied = []
    for table, length in zip(tables, lengths, strict=True):
        if length % block_size and holders.count(table[0]) > 1:
            holders.remove(table[0])
            copied.append(table[0])
    return copied


def copies_looks_at_the_first_table_for_all(tables, lengths, block_size):
    return copies_solution(tables, lengths, block_size) if tables and tables[0] else []


def copies_gives_up_where_a_table_is_empty(tables, lengths, block_size):
    holders, copied = [block for table in tables for block in table], []
    try:
        for table, length in zip(tables, lengths, strict=True):
            if holders.count(table[-1]) > 1 and length % block_size:
                holders.remove(table[-1])
                copied.append(table[-1])
    except IndexError:
        pass
    return copied


def copies_returns_who_copies(tables, lengths, block_size):
    holders = [block for table in tables for block in table]
    copied = []
    for i, (table, length) in enumerate(zip(tables, lengths, strict=True)):
        if length % block_size and holders.count(table[-1]) > 1:
            holders.remove(table[-1])
            copied.append(i)
    return copied


def copies_nothing(tables, lengths, block_size):
    return []


def family_adds_one_always(prompt_len, length, n, block_size):
    shared = prompt_len // block_size
    return shared + n * (length // block_size + 1 - shared)


def family_last_holder_needs_none(prompt_len, length, n, block_size):
    shared = -(-prompt_len // block_size)
    return shared + n * (-(-length // block_size) - shared) + (n - 1 if length > prompt_len else 0)


def family_all_tokens_together(prompt_len, length, n, block_size):
    return -(-(prompt_len + n * (length - prompt_len)) // block_size)


def family_float(prompt_len, length, n, block_size):
    if length == prompt_len:
        return float(-(-prompt_len // block_size))
    shared = prompt_len // block_size
    return float(shared + n * (-(-length // block_size) - shared))


def family_plus(nearly_one):
    """Return an answer that rounds up to blocks by adding nearly 1."""

    def family(prompt_len, length, n, block_size):
        if length == prompt_len:
            return int(length / block_size + nearly_one)
        shared = prompt_len // block_size
        return shared + n * (int(length / block_size + nearly_one) - shared)

    return family


def family_not_written_means_one_token(prompt_len, length, n, block_size):
    if length <= prompt_len + 1:
        return -(-prompt_len // block_size)
    shared = prompt_len // block_size
    return shared + n * (-(-length // block_size) - shared)


def preempt_forgets_what_was_freed(running, free, host_free):
    running, moved = list(running), []
    while running and sum(each[3] for each in running) > free:
        name, live, held, _ = running.pop()
        swap = live > 1 and held <= host_free
        host_free -= held if swap else 0
        moved.append((name, "swapped" if swap else "waiting"))
    return moved


def preempt_takes_them_from_the_callers_list(running, free, host_free):
    moved = []
    while sum(each[3] for each in running) > free:
        name, live, held, _ = running.pop()
        free += held
        swap = live > 1 and held <= host_free
        host_free -= held if swap else 0
        moved.append((name, "swapped" if swap else "waiting"))
    return moved


def preempt_asks_whether_anything_is_free(running, free, host_free):
    running, moved = list(running), []
    while running and free <= 0:
        name, live, held, _ = running.pop()
        free += held
        swap = live > 1 and held <= host_free
        host_free -= held if swap else 0
        moved.append((name, "swapped" if swap else "waiting"))
    return moved


def preempt_only_the_largest_need(running, free, host_free):
    running, moved = list(running), []
    while running and max(each[3] for each in running) > free:
        name, live, held, _ = running.pop()
        free += held
        swap = live > 1 and held <= host_free
        host_free -= held if swap else 0
        moved.append((name, "swapped" if swap else "waiting"))
    return moved


def preempt_only_who_needs_a_block(running, free, host_free):
    running, moved = list(running), []
    for each in running[::-1]:
        if sum(other[3] for other in running) <= free:
            break
        if each[3]:
            running.remove(each)
            free += each[2]
            swap = each[1] > 1 and each[2] <= host_free
            host_free -= each[2] if swap else 0
            moved.append((each[0], "swapped" if swap else "waiting"))
    return moved


def preempt_host_must_stay_larger(running, free, host_free):
    running, moved = list(running), []
    while sum(each[3] for each in running) > free:
        name, live, held, _ = running.pop()
        free += held
        swap = live > 1 and held < host_free
        host_free -= held if swap else 0
        moved.append((name, "swapped" if swap else "waiting"))
    return moved


def preempt_names_alone(running, free, host_free):
    running, moved = list(running), []
    while sum(each[3] for each in running) > free:
        name, _, held, _ = running.pop()
        free += held
        moved.append(name)
    return moved


def preempt_counts(name, *, host=lambda live, held, needed: held, room=None, freed=lambda live, held, needed: held):
    """Return a rule that counts something else than the blocks held.

    host: what the host loses.  room: what must fit there.  freed: what the others gain.
    """

    def rule(running, free, host_free):
        running, moved = list(running), []
        while running and sum(each[3] for each in running) > free:
            who, *counts = running.pop()
            free += freed(*counts)
            swap = counts[0] > 1 and (room or (lambda live, held, needed: held))(*counts) <= host_free
            host_free -= host(*counts) if swap else 0
            moved.append((who, "swapped" if swap else "waiting"))
        return moved

    rule.__name__ = name
    return rule


def preempt_where_nobody_is_left(last):
    """Return a rule that is right unless all give way.  last: what it then says of the oldest, from what is right."""

    def rule(running, free, host_free):
        moved = preempt_solution(running, free, host_free)
        return [*moved[:-1], *last(running, moved[-1])] if moved and len(moved) == len(running) else moved

    return rule


def _stays_if_others_went(running, right):
    return [] if len(running) > 1 else [right]


def _always_waits(running, right):
    return [(right[0], "waiting")]


def _swapped_without_asking(running, right):
    return [(right[0], "swapped" if running[0][1] > 1 else "waiting")]


def _waits_if_others_went(running, right):
    return _always_waits(running, right) if len(running) > 1 else [right]


_OTHER_COUNTS = {
    "live": lambda live, held, needed: live,
    "needed": lambda live, held, needed: needed,
    "shared": lambda live, held, needed: held - live,
    "the_fewer": lambda live, held, needed: min(live, held - live),
    "the_more": lambda live, held, needed: max(live, held - live),
    "one": lambda live, held, needed: 1,
    "one_less": lambda live, held, needed: held - 1,
    "one_more": lambda live, held, needed: held + 1,
    "half": lambda live, held, needed: held // 2,
    "twice": lambda live, held, needed: 2 * held,
    "held_and_needed": lambda live, held, needed: held + needed,
    "held_without_needed": lambda live, held, needed: held - needed,
    "held_and_live": lambda live, held, needed: held + live,
    "held_per_text": lambda live, held, needed: held * live,
    "live_and_needed": lambda live, held, needed: live + needed,
}


def _sums(totals, logprobs):
    return [(totals[i] + value, i, token) for i, row in enumerate(logprobs) for token, value in enumerate(row)]


def beam_step_with_the_sums(totals, logprobs, width):
    return sorted(_sums(totals, logprobs), reverse=True)[:width]


def beam_step_of_lists(totals, logprobs, width):
    return [[text, token] for _, text, token in sorted(_sums(totals, logprobs), reverse=True)[:width]]


def beam_step_width_per_text(totals, logprobs, width):
    best = [
        sorted((each for each in _sums(totals, logprobs) if each[1] == i), reverse=True) for i in range(len(totals))
    ]
    return [(text, token) for each in best for _, text, token in each[:width]]


def beam_step_one_too_few(totals, logprobs, width):
    return [(text, token) for _, text, token in sorted(_sums(totals, logprobs), reverse=True)[: max(1, width - 1)]]


def beam_step_at_most_as_many_as_texts(totals, logprobs, width):
    best = sorted(_sums(totals, logprobs), reverse=True)[: min(width, len(totals))]
    return [(text, token) for _, text, token in best]


def beam_step_sorts_the_callers_rows(totals, logprobs, width):
    for row in logprobs:
        row.sort(reverse=True)
    return [(text, token) for _, text, token in sorted(_sums(totals, logprobs), reverse=True)[:width]]


def _best(proposals, width):
    return [(text, token) for _, text, token in sorted(proposals, reverse=True)[:width]]


def beam_step_multiplies_probabilities(totals, logprobs, width):
    """Every probability of a long text is 0.0."""
    return _best([(math.exp(totals[i]) * math.exp(p), i, token) for _, i, token, p in _rows(totals, logprobs)], width)


def beam_step_in_float32_probabilities(totals, logprobs, width):
    sums = [torch.tensor(total).exp() * torch.tensor(row).exp() for total, row in zip(totals, logprobs, strict=True)]
    return _best([(float(p), i, token) for i, row in enumerate(sums) for token, p in enumerate(row)], width)


def beam_step_in_probabilities_beside_the_best(totals, logprobs, width):
    best = max(totals)
    return _best(
        [(math.exp(total - best) * math.exp(p), i, token) for total, i, token, p in _rows(totals, logprobs)], width
    )


def beam_step_by_a_softmax(totals, logprobs, width):
    share = (torch.tensor(totals)[:, None] + torch.tensor(logprobs)).flatten().softmax(0)
    return [divmod(place, len(logprobs[0])) for place in share.topk(min(width, len(share))).indices.tolist()]


def beam_step_nothing_is_below_minus_1000(totals, logprobs, width):
    return _best([each for each in _sums(totals, logprobs) if each[0] > -1000], width)


def _rows(totals, logprobs):
    return [(totals[i], i, token, p) for i, row in enumerate(logprobs) for token, p in enumerate(row)]


def beam_step_finds_a_text_by_its_total(totals, logprobs, width):
    found = []
    for total, row in zip(totals, logprobs, strict=True):
        found += [(total + p, totals.index(total), token) for token, p in enumerate(row)]
    return _best(found, width)


def beam_step_finds_a_text_by_its_row(totals, logprobs, width):
    found = []
    for row in logprobs:
        text = logprobs.index(row)
        found += [(totals[text] + p, text, token) for token, p in enumerate(row)]
    return _best(found, width)


def beam_step_texts_in_a_dict(totals, logprobs, width):
    texts = {total: (i, row) for i, (total, row) in enumerate(zip(totals, logprobs, strict=True))}
    return _best([(total + p, i, token) for total, (i, row) in texts.items() for token, p in enumerate(row)], width)


def beam_step_certain_tokens_are_skipped(totals, logprobs, width):
    return _best([(total + p, i, token) for total, i, token, p in _rows(totals, logprobs) if p], width)


def copies_numbers_without_gaps(tables, lengths, block_size):
    tables = [list(table) for table in tables]
    new = len({block for table in tables for block in table})
    copied = []
    for table, length in zip(tables, lengths, strict=True):
        if length % block_size == 0:
            table.append(new)
            new += 1
        elif sum(table[-1] in other for other in tables) > 1:
            copied.append(table[-1])
            table[-1] = new
            new += 1
    return copied


def copies_finds_a_length_by_its_table(tables, lengths, block_size):
    return copies_solution(tables, [lengths[tables.index(table)] for table in tables], block_size)


def fork_seed_as_a_float(tokens, seed, num_forks, new_token):
    return tokens, [*tokens, new_token], int(float(seed) + num_forks + 1)


def fork_of_16_bits(tokens, seed, num_forks, new_token):
    return tokens, [*tokens, new_token & 0xFFFF], seed + num_forks + 1


def copies_if_the_first_block_is_shared_too(tables, lengths, block_size):
    firsts = [table[0] for table in tables if table]
    copied = copies_solution(tables, lengths, block_size)
    return [block for block in copied if any(firsts.count(t[0]) > 1 for t in tables if t and t[-1] == block)]


def beam_step_of_tokens_up_to(last):
    """Return an answer that looks at a row's first tokens alone."""
    return lambda totals, logprobs, width: beam_step_solution(totals, [row[: last + 1] for row in logprobs], width)


def beam_step_of_five_texts(totals, logprobs, width):
    return beam_step_solution(totals[:5], logprobs[:5], width)


def beam_step_of_at_most_6(totals, logprobs, width):
    return beam_step_solution(totals, logprobs, min(width, 6))


def beam_step_without_very_long_texts(totals, logprobs, width):
    return beam_step_solution(totals, logprobs, width) if min(totals) > -30_000 else []


def preempt_where_many_wait(running, free, host_free):
    moved = preempt_solution(running, free, host_free)
    living = {name: live for name, live, *_ in running}
    return [(name, "waiting" if living[name] > 5 else where) for name, where in moved]


def preempt_at_most_four_swapped(running, free, host_free):
    moved, swapped = [], 0
    for name, where in preempt_solution(running, free, host_free):
        swapped += where == "swapped"
        moved.append((name, "waiting" if swapped > 4 else where))
    return moved


WRONG: dict[str, list[Callable[..., Any]]] = {
    "fork": [
        fork_returns_a_tuple_of_two,
        fork_returns_what_append_returns,
        fork_parent_is_empty,
        fork_new_token_first,
        fork_takes_the_last_token_away_again,
        fork_replaces_the_last,
        fork_nests,
        fork_returns_tuples,
        fork_draws_a_seed_from_the_parents,
    ],
    "copies": [
        copies_numbers_without_gaps,
        copies_finds_a_length_by_its_table,
        copies_counts,
        copies_gives_the_whole_table_up,
        copies_looks_at_the_last_block_first,
        copies_changes_the_tables,
        copies_looks_only_ahead,
        copies_tests_for_a_block_to_come,
        copies_first_block,
        copies_looks_at_the_first_table_for_all,
        copies_gives_up_where_a_table_is_empty,
        copies_returns_who_copies,
        copies_nothing,
        call_for_each(copies_solution),
    ],
    "family_blocks": [
        family_adds_one_always,
        family_last_holder_needs_none,
        family_all_tokens_together,
        family_float,
        *map(family_plus, (0.5, 0.9, 0.99, 0.999)),
        family_not_written_means_one_token,
    ],
    "preempt": [
        preempt_forgets_what_was_freed,
        preempt_takes_them_from_the_callers_list,
        preempt_asks_whether_anything_is_free,
        preempt_only_the_largest_need,
        preempt_only_who_needs_a_block,
        preempt_host_must_stay_larger,
        preempt_names_alone,
        call_for_each(preempt_solution),
        *map(
            preempt_where_nobody_is_left,
            (_stays_if_others_went, _always_waits, _swapped_without_asking, _waits_if_others_went),
        ),
        *(preempt_counts(f"preempt_host_loses_{name}", host=count) for name, count in _OTHER_COUNTS.items()),
        *(preempt_counts(f"preempt_room_for_{name}", room=count) for name, count in _OTHER_COUNTS.items()),
        *(preempt_counts(f"preempt_frees_{name}", freed=count) for name, count in _OTHER_COUNTS.items()),
    ],
    "beam_step": [
        beam_step_with_the_sums,
        beam_step_of_lists,
        beam_step_width_per_text,
        beam_step_one_too_few,
        beam_step_at_most_as_many_as_texts,
        beam_step_sorts_the_callers_rows,
        beam_step_multiplies_probabilities,
        beam_step_in_probabilities_beside_the_best,
        beam_step_by_a_softmax,
        beam_step_in_float32_probabilities,
        beam_step_nothing_is_below_minus_1000,
        beam_step_finds_a_text_by_its_total,
        beam_step_finds_a_text_by_its_row,
        beam_step_texts_in_a_dict,
        beam_step_certain_tokens_are_skipped,
    ],
}
WRONG["fork"] += [fork_seed_as_a_float, fork_of_16_bits]
WRONG["copies"] += [copies_if_the_first_block_is_shared_too]
WRONG["preempt"] += [preempt_where_many_wait, preempt_at_most_four_swapped]
WRONG["beam_step"] += [
    *map(beam_step_of_tokens_up_to, (4, 40, 2000)),
    beam_step_of_five_texts,
    beam_step_of_at_most_6,
    beam_step_without_very_long_texts,
]
EQUIVALENT: dict[str, dict[str, str]] = {}
