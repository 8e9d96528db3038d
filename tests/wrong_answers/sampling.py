"""Wrong answers to the exercises of ``folovllm.course.exercises.sampling``."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from folovllm.course.exercises.sampling.min_p import min_p_solution as _right_min_p
from folovllm.course.exercises.sampling.penalties import penalties_solution as _right_penalties
from folovllm.course.exercises.sampling.stop import stop_solution as _right_stop
from folovllm.course.exercises.sampling.temperature import temperature_solution as _right_temperature
from folovllm.course.exercises.sampling.top_p import top_p_solution as _right_top_p


def temperature_without_none(logits, temperature):
    return (logits / temperature.mean()).softmax(dim=-1)


def temperature_of_the_first_row(logits, temperature):
    if temperature[0] == 0:
        return torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
    return (logits / temperature[0]).softmax(dim=-1)


def temperature_in_place(logits, temperature):
    best = logits.argmax(dim=-1)
    logits /= temperature[:, None]
    probs = logits.softmax(dim=-1)
    probs[temperature == 0] = torch.nn.functional.one_hot(best, logits.shape[-1]).float()[temperature == 0]
    return probs


def temperature_zero_means_one(logits, temperature):
    return (logits / torch.where(temperature > 0, temperature, 1.0)[:, None]).softmax(dim=-1)


def temperature_ids_at_zero(logits, temperature):
    return logits.argmax(dim=-1) if (temperature == 0).all() else (logits / temperature[:, None]).softmax(dim=-1)


def temperature_all_largest(logits, temperature):
    probs = (logits / temperature[:, None]).softmax(dim=-1)
    largest = (logits == logits.amax(dim=-1, keepdim=True)).float()
    return torch.where(temperature[:, None] > 0, probs, largest / largest.sum(dim=-1, keepdim=True))


def temperature_log_softmax(logits, temperature):
    probs = (logits / temperature[:, None]).log_softmax(dim=-1)
    greedy = torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float().log()
    return torch.where(temperature[:, None] > 0, probs, greedy)


def temperature_as_a_list(logits, temperature):
    return [row.tolist() for row in (logits / temperature[:, None]).softmax(dim=-1)]


def temperature_small_is_greedy(logits, temperature):
    probs = (logits / temperature[:, None]).softmax(dim=-1)
    greedy = torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
    return torch.where(temperature[:, None] > 0.02, probs, greedy)


def temperature_of_rounded_logits(logits, temperature):
    rounded = (logits * 100).round() / 100
    probs = (rounded / temperature[:, None]).softmax(dim=-1)
    greedy = torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
    return torch.where(temperature[:, None] > 0, probs, greedy)


def _temperature(logits, temperature):
    probs = (logits / temperature[:, None]).softmax(dim=-1)
    greedy = torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
    return torch.where(temperature[:, None] > 0, probs, greedy)


def temperature_with_a_lowest_number(logits, temperature):
    above = torch.where(logits > -100, logits, -torch.inf)
    return torch.where(temperature[:, None] > 0, _temperature(logits, temperature), _temperature(above, temperature))


def temperature_tiny_is_greedy(logits, temperature):
    return _temperature(logits, torch.where(temperature < 0.01, 0.0, temperature))


def temperature_below_a_ten_thousandth_is_greedy(logits, temperature):
    return _temperature(logits, torch.where(temperature <= 1e-4, 0.0, temperature))


def temperature_below_a_hundred_thousandth_is_greedy(logits, temperature):
    return _temperature(logits, torch.where(temperature <= 1e-5, 0.0, temperature))


def temperature_close_to_0_is_greedy(logits, temperature):
    near = torch.isclose(temperature, torch.zeros(()))
    return _temperature(logits, torch.where(near, 0.0, temperature))


def temperature_of_a_billionth_is_greedy(logits, temperature):
    return _temperature(logits, torch.where(temperature < 1e-8, 0.0, temperature))


def _temperature_at_least(least):
    def answer(logits, temperature):
        return _temperature(logits, torch.where(temperature > 0, temperature.clamp(min=least), 0.0))

    answer.__name__ = f"temperature_at_least_{least}"
    return answer


def temperature_with_a_number_for_inf(logits, temperature):
    return _temperature(logits.masked_fill(logits == -torch.inf, -1e4), temperature)


def temperature_minus_the_largest_logit_of_all(logits, temperature):
    return _temperature(logits - logits.max(), temperature)


def temperature_chosen_after_a_division_by_next_to_nothing(logits, temperature):
    probs = (logits / temperature.clamp(min=1e-10)[:, None]).softmax(dim=-1)
    return _temperature_with_best(probs.argmax(dim=-1), logits, temperature)


def temperature_of_next_to_nothing_is_greedy(logits, temperature):
    return _temperature(logits, torch.where(temperature < 1e-30, 0.0, temperature))


def _temperature_with_best(best, logits, temperature):
    probs = (logits / temperature[:, None]).softmax(dim=-1)
    greedy = torch.zeros_like(probs).scatter(1, best[:, None], 1.0)
    return torch.where(temperature[:, None] > 0, probs, greedy)


def temperature_by_a_sort_that_mixes_ties_in_long_rows(logits, temperature):
    """As PyTorch's sort may without stable=True: up to 16 numbers keep their order, more do not."""
    last = logits.shape[-1] - 1 - logits.flip(-1).argmax(dim=-1)
    best = last if logits.shape[-1] > 16 else logits.argmax(dim=-1)
    return _temperature_with_best(best, logits, temperature)


def temperature_likeliest_after_the_softmax(logits, temperature):
    return _temperature_with_best(logits.softmax(dim=-1).argmax(dim=-1), logits, temperature)


def temperature_likeliest_at_a_divisor_of_one(logits, temperature):
    probs = (logits / torch.where(temperature == 0, 1, temperature)[:, None]).softmax(dim=-1)
    greedy = torch.zeros_like(probs).scatter(1, probs.argmax(dim=-1, keepdim=True), 1.0)
    return torch.where(temperature[:, None] > 0, probs, greedy)


def temperature_ties_broken_by_a_millionth(logits, temperature):
    nudged = logits - 1e-6 * torch.arange(logits.shape[-1])
    return _temperature_with_best(nudged.argmax(dim=-1), logits, temperature)


def temperature_changed_in_place(logits, temperature):
    temperature[temperature == 0] = 1e-9
    return (logits / temperature[:, None]).softmax(dim=-1)


def temperature_rounded(logits, temperature):
    return _temperature(logits, temperature.round(decimals=2))


def temperature_at_least_a_hundredth(logits, temperature):
    return _temperature(logits, torch.where(temperature > 0, temperature.clamp(min=0.01), 0.0))


def temperature_unlikely_is_impossible(logits, temperature):
    probs = _temperature(logits, temperature)
    return probs.masked_fill(probs < 1e-5, 0.0)


def temperature_very_unlikely_is_impossible(logits, temperature):
    probs = _temperature(logits, temperature)
    return probs.masked_fill(probs < 1e-8, 0.0)


def _top_p(probs, p):
    return _top_p_in(probs.sort(stable=True).indices.flip(0), probs, p)


def _top_p_in(order, probs, p):
    """Keep tokens in an order, until their sum reaches p."""
    ranked = probs[order]
    return torch.zeros(len(probs), dtype=torch.bool).scatter(0, order, ranked.cumsum(0) - ranked < p)


def top_p_waits_for_one(probs, p):
    """Never ends where all probabilities together are a little less than p, and one of them is 0."""
    keep, left, total = torch.zeros_like(probs, dtype=torch.bool), probs.clone(), 0.0
    while total < p and not keep.all():
        best = int((left == left.max()).nonzero()[-1, 0])
        keep[best], left[best] = True, 0
        total += float(probs[best])
    return keep


def top_p_at_most_98_percent(probs, p):
    return _top_p(probs, min(p, 0.98))


def top_p_at_most_nearly_one(probs, p):
    return _top_p(probs, min(p, 0.998))


def top_p_at_least_a_fifth(probs, p):
    return _top_p(probs, max(p, 0.2))


def top_p_at_least_a_twentieth(probs, p):
    return _top_p(probs, max(p, 0.05))


def top_p_without_a_tail_at_one(probs, p):
    return probs > 0.02 if p == 1 else _top_p(probs, p)


def top_p_without_what_is_tiny(probs, p):
    return _top_p(probs, p) & (probs >= 0.001)


def top_p_of_rounded(probs, p):
    return _top_p(probs.round(decimals=6), p)


def top_p_with_a_nudge_per_token(probs, p):
    return _top_p_in((probs.double() + 1e-9 * torch.arange(len(probs))).argsort(descending=True), probs, p)


def top_p_nearly_one_keeps_all(probs, p):
    if p >= 0.999:
        return torch.ones_like(probs, dtype=torch.bool)
    return _top_p(probs, p)


def top_p_very_nearly_one_keeps_all(probs, p):
    return torch.ones_like(probs, dtype=torch.bool) if p > 0.99999 else _top_p(probs, p)


def top_p_of_next_to_nothing_keeps_none(probs, p):
    return torch.zeros_like(probs, dtype=torch.bool) if p < 1e-9 else _top_p(probs, p)


def top_p_at_most_fifty(probs, p):
    ranked, order = (each.flip(0) for each in probs.sort(stable=True))
    keep = (ranked.cumsum(0) - ranked < p) & (torch.arange(len(probs)) < 50)
    return torch.zeros(len(probs), dtype=torch.bool).scatter(0, order, keep)


def top_p_a_little_less(probs, p):
    return _top_p(probs, p - 1e-3)


def top_p_a_little_more(probs, p):
    return _top_p(probs, p + 1e-3)


def top_p_from_the_end_without_the_last(probs, p):
    ranked, order = probs.sort(stable=True)
    return torch.zeros(len(probs), dtype=torch.bool).scatter(0, order, ranked.cumsum(0) > 1 - p)


def top_p_a_millionth_less(probs, p):
    return _top_p(probs, p - 1e-6)


def top_p_by_numpys_sort(probs, p):
    return _top_p_in(torch.from_numpy(np.argsort(probs.numpy())[::-1].copy()), probs, p)


def _top_p_of_rounded_sums(decimals):
    def answer(probs, p):
        ranked, order = probs.sort(descending=True, stable=True)
        keep = (ranked.cumsum(0) - ranked).round(decimals=decimals) < p
        return torch.zeros(len(probs), dtype=torch.bool).scatter(0, order, keep)

    return answer


def top_p_one_more(probs, p):
    ranked, order = (each.flip(0) for each in probs.sort(stable=True))
    count = int((ranked.cumsum(0) <= p).sum()) + 1
    keep = torch.zeros(len(probs), dtype=torch.bool)
    keep[order[:count]] = True
    return keep


def top_p_ids(probs, p):
    ranked, order = (each.flip(0) for each in probs.sort(stable=True))
    return order[ranked.cumsum(0) - ranked < p]


def top_p_floats(probs, p):
    ranked, order = (each.flip(0) for each in probs.sort(stable=True))
    return torch.zeros_like(probs).scatter(0, order, (ranked.cumsum(0) - ranked < p).float())


def top_p_unlikeliest_first(probs, p):
    ranked, order = probs.sort(stable=True)
    return torch.zeros(len(probs), dtype=torch.bool).scatter(0, order, ranked.cumsum(0) - ranked < p)


def top_p_searched(probs, p):
    ranked, order = (each.flip(0) for each in probs.sort(stable=True))
    keep = torch.arange(len(probs)) < torch.searchsorted(ranked.cumsum(0), p)
    return torch.zeros(len(probs), dtype=torch.bool).scatter(0, order, keep)


def top_p_by_value(probs, p):
    return probs >= p


def min_p_of_a_billionth_is_off(logits, min_p):
    return logits.masked_fill(
        logits < (logits.amax(-1) + torch.where(min_p < 1e-9, 0, min_p).log())[:, None], -torch.inf
    )


def min_p_of_next_to_nothing_is_off(logits, min_p):
    return logits.masked_fill(
        logits < (logits.amax(-1) + torch.where(min_p < 1e-20, 0, min_p).log())[:, None], -torch.inf
    )


def min_p_of_the_first_row(logits, min_p):
    return logits.masked_fill(logits < logits[0].max() + min_p.log()[:, None], -torch.inf)


def min_p_with_one_threshold(logits, min_p):
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + min_p.log().max(), -torch.inf)


def min_p_in_place(logits, min_p):
    logits[logits < logits.amax(dim=-1, keepdim=True) + min_p.log()[:, None]] = -torch.inf
    return logits


def min_p_exp_overflows(logits, min_p):
    powers = logits.exp()
    return logits.masked_fill(powers < min_p[:, None] * powers.amax(dim=-1, keepdim=True), -torch.inf)


def min_p_strict(logits, min_p):
    return logits.masked_fill(logits <= logits.amax(dim=-1, keepdim=True) + min_p.log()[:, None], -torch.inf)


def min_p_border_dropped_but_the_largest(logits, min_p):
    threshold = logits.amax(dim=-1, keepdim=True) + min_p.log()[:, None]
    return logits.masked_fill((logits <= threshold) & (logits < logits.amax(dim=-1, keepdim=True)), -torch.inf)


def min_p_never_one(logits, min_p):
    threshold = logits.amax(dim=-1, keepdim=True) + min_p.clamp(max=0.99).log()[:, None]
    return logits.masked_fill(logits < threshold, -torch.inf)


def min_p_a_little_less(logits, min_p):
    threshold = logits.amax(dim=-1, keepdim=True) + (min_p * 0.99).log()[:, None]
    return logits.masked_fill(logits < threshold, -torch.inf)


def _min_p_above(tiny):
    def answer(logits, min_p):
        return logits.masked_fill(
            logits < logits.amax(dim=-1, keepdim=True) + min_p.clamp(min=tiny).log()[:, None], -torch.inf
        )

    return answer


min_p_at_least_1e_30 = _min_p_above(1e-30)
min_p_at_least_the_smallest_normal_number = _min_p_above(torch.finfo(torch.float32).tiny)


def _min_p_within(tolerance):
    def answer(logits, min_p):
        threshold = logits.amax(dim=-1, keepdim=True) + min_p.log()[:, None]
        return logits.masked_fill(logits < threshold - tolerance, -torch.inf)

    return answer


min_p_within_a_thousandth = _min_p_within(1e-3)
min_p_within_a_little_more = _min_p_within(1.5e-3)


def min_p_close_to_the_border_stays(logits, min_p):
    probs = logits.softmax(dim=-1)
    border = min_p[:, None] * probs.amax(dim=-1, keepdim=True)
    return logits.masked_fill((probs < border) & ~torch.isclose(probs, border), -torch.inf)


def _min_p_tolerance(margin):
    def answer(logits, min_p):
        threshold = logits.amax(-1, keepdim=True) + min_p.log()[:, None]
        return logits.masked_fill(logits < threshold - margin, -torch.inf)

    return answer


def min_p_relative_tolerance(logits, min_p):
    probs = logits.softmax(-1)
    below = probs / probs.amax(-1, keepdim=True) < min_p[:, None] * (1 - 1e-5)
    return logits.masked_fill(below, -torch.inf)


def min_p_log10(logits, min_p):
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + min_p.log10()[:, None], -torch.inf)


def min_p_over_requests(logits, min_p):
    return logits.masked_fill(logits < logits.amax(dim=0, keepdim=True) + min_p.log()[:, None], -torch.inf)


def min_p_log_probabilities(logits, min_p):
    logits = logits.log_softmax(dim=-1)
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + min_p.log()[:, None], -torch.inf)


def min_p_large_negative(logits, min_p):
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + min_p.log()[:, None], -1e9)


def penalties_in_place(logits, prompt, output, repetition, frequency, presence):
    for token in set(prompt + output):
        logits[token] = logits[token] / repetition if logits[token] > 0 else logits[token] * repetition
    for token in set(output):
        logits[token] -= frequency * output.count(token) + presence
    return logits


def penalties_of_the_prompt_extended(logits, prompt, output, repetition, frequency, presence):
    row = logits.clone()
    prompt += output
    for token in set(prompt):
        row[token] = row[token] / repetition if row[token] > 0 else row[token] * repetition
    for token in set(output):
        row[token] -= frequency * output.count(token) + presence
    return row


def penalties_presence_for_all(logits, prompt, output, repetition, frequency, presence):
    row = logits.clone()
    for token in set(prompt + output):
        row[token] = row[token] / repetition if row[token] > 0 else row[token] * repetition
        row[token] -= frequency * output.count(token) + presence
    return row


def penalties_added(logits, prompt, output, repetition, frequency, presence):
    row = logits.clone()
    for token in set(prompt + output):
        row[token] = row[token] / repetition if row[token] > 0 else row[token] * repetition
    for token in set(output):
        row[token] += frequency * output.count(token) + presence
    return row


def penalties_of_probabilities(logits, prompt, output, repetition, frequency, presence):
    row = logits.softmax(dim=-1)
    for token in set(prompt + output):
        row[token] /= repetition
    for token in set(output):
        row[token] -= frequency * output.count(token) + presence
    return row


def penalties_normalised(logits, prompt, output, repetition, frequency, presence):
    row = logits.clone()
    for token in set(prompt + output):
        row[token] = row[token] / repetition if row[token] > 0 else row[token] * repetition
    for token in set(output):
        row[token] -= frequency * output.count(token) / len(output) + presence
    return row


def penalties_newest_only(logits, prompt, output, repetition, frequency, presence):
    row = logits.clone()
    for token in {*prompt, *output}:
        row[token] = row[token] / repetition if row[token] > 0 else row[token] * repetition
    for token in output[-1:]:
        row[token] -= frequency * output.count(token) + presence
    return row


def penalties_counted_to_five(logits, prompt, output, repetition, frequency, presence):
    row = logits.clone()
    for token in {*prompt, *output}:
        row[token] = row[token] / repetition if row[token] > 0 else row[token] * repetition
    for token in set(output):
        row[token] -= frequency * min(5, output.count(token)) + presence
    return row


def penalties_of_the_last_ten(logits, prompt, output, repetition, frequency, presence):
    row = logits.clone()
    for token in {*prompt, *output}:
        row[token] = row[token] / repetition if row[token] > 0 else row[token] * repetition
    for token in set(output[-10:]):
        row[token] -= frequency * output[-10:].count(token) + presence
    return row


def penalties_by_power(logits, prompt, output, repetition, frequency, presence):
    row = logits.clone()
    for token in {*prompt, *output}:
        by = repetition ** output.count(token)
        row[token] = row[token] / by if row[token] > 0 else row[token] * by
    for token in set(output):
        row[token] -= frequency * output.count(token) + presence
    return row


def _penalties(logits, prompt, output, repetition, frequency, presence):
    row = logits.clone()
    for token in {*prompt, *output}:
        row[token] = row[token] / repetition if row[token] > 0 else row[token] * repetition
    for token in set(output):
        row[token] -= frequency * output.count(token) + presence
    return row


def penalties_of_the_first_five(logits, prompt, output, repetition, frequency, presence):
    return _penalties(logits, prompt[:5], output, repetition, frequency, presence)


def penalties_of_the_prompts_last_five(logits, prompt, output, repetition, frequency, presence):
    return _penalties(logits, prompt[-5:], output, repetition, frequency, presence)


def penalties_of_the_prompts_last_thirty(logits, prompt, output, repetition, frequency, presence):
    return _penalties(logits, prompt[-30:], output, repetition, frequency, presence)


def penalties_of_few_tokens(logits, prompt, output, repetition, frequency, presence):
    if len({*prompt, *output}) >= 6:
        return logits.clone()
    return _penalties(logits, prompt, output, repetition, frequency, presence)


def penalties_rounded(logits, prompt, output, repetition, frequency, presence):
    return _penalties(logits, prompt, output, repetition, frequency, presence).round(decimals=3)


def stop_split_at_all(text, stop):
    for each in stop:
        text = text.split(each)[0]
    return text


def stop_split_longest_first(text, stop):
    for each in sorted(stop, key=len, reverse=True):
        text = text.split(each)[0]
    return text


def stop_one_more(text, stop):
    found = [(text.index(each) + len(each), i) for i, each in enumerate(stop) if each in text]
    return text[: min(found)[0]] if found else text


def stop_none_without(text, stop):
    found = [(text.index(each) + len(each), i) for i, each in enumerate(stop) if each in text]
    return text[: min(found)[0] - len(stop[min(found)[1]])] if found else None


def stop_stripped(text, stop):
    found = [(text.index(each) + len(each), i) for i, each in enumerate(stop) if each in text]
    return text[: min(found)[0] - len(stop[min(found)[1]])].rstrip(".") if found else text


def _stop_found(text, stop):
    found = [(text.index(each) + len(each), i) for i, each in enumerate(stop) if each in text]
    return text[: min(found)[0] - len(stop[min(found)[1]])] if found else text


def stop_in_bytes(text, stop):
    raw = text.encode()
    found = [(raw.index(each.encode()) + len(each.encode()), i) for i, each in enumerate(stop) if each in text]
    return text[: min(found)[0] - len(stop[min(found)[1]].encode())] if found else text


def stop_cut_in_bytes(text, stop):
    return text.encode()[: len(_stop_found(text, stop))].decode(errors="ignore")


def stop_of_ascii_texts(text, stop):
    return _stop_found(text.encode().decode("ascii", "ignore"), stop)


def stop_of_ascii_strings(text, stop):
    return _stop_found(text, [each for each in stop if each.isascii()])


def stop_of_the_first_three(text, stop):
    return _stop_found(text, stop[:3])


def stop_in_the_first_sixty(text, stop):
    return _stop_found(text[:60], stop)


def stop_in_the_first_sixty_and_the_rest(text, stop):
    cut = _stop_found(text[:60], stop)
    return cut if cut != text[:60] else text


def _stop_with_infinity(number):
    """Return an answer that looks for the smallest end, beginning with a number that is not large enough."""

    def answer(text, stop):
        best, cut = number, text
        for each in stop:
            if each in text and text.index(each) + len(each) < best:
                best, cut = text.index(each) + len(each), text[: text.index(each)]
        return cut

    return answer


stop_infinity_is_999 = _stop_with_infinity(999)
stop_infinity_is_9999 = _stop_with_infinity(9999)


def stop_of_short_strings(text, stop):
    return _stop_found(text, [each for each in stop if len(each) < 20])


def stop_newlines_stripped(text, stop):
    return _stop_found(text, stop).rstrip("\n")


def stop_newlines_stripped_where_it_cuts(text, stop):
    cut = _stop_found(text, stop)
    return cut if cut == text else cut.rstrip("\n")


def stop_spaces_stripped(text, stop):
    return _stop_found(text, stop).rstrip(" ")


def stop_in_any_case(text, stop):
    return text[: len(_stop_found(text.lower(), [each.lower() for each in stop]))]


def stop_by_find_of_minus_one(text, stop):
    return text[: min((text.find(each) for each in stop), default=len(text))]


def penalties_returns_the_callers_where_nothing_is_to_do(logits, prompt, output, repetition, frequency, presence):
    if repetition == 1 and frequency == 0 and presence == 0:
        return logits
    return _right_penalties(logits, prompt, output, repetition, frequency, presence)


def penalties_returns_the_callers_where_nothing_occurred(logits, prompt, output, repetition, frequency, presence):
    if not prompt and not output:
        return logits
    return _right_penalties(logits, prompt, output, repetition, frequency, presence)


def penalties_returns_a_view_where_nothing_is_to_do(logits, prompt, output, repetition, frequency, presence):
    lowered = _right_penalties(logits, prompt, output, repetition, frequency, presence)
    return logits[:] if lowered.equal(logits) else lowered


def min_p_returns_the_callers_where_it_is_off(logits, min_p):
    return _right_min_p(logits, min_p) if min_p.any() else logits


def min_p_returns_the_callers_where_nothing_is_dropped(logits, min_p):
    left = _right_min_p(logits, min_p)
    return logits if left.equal(logits) else left


def stop_removes_from_the_list(text, stop):
    while stop and stop[-1] not in text:
        stop.pop()
    found = [(text.index(each) + len(each), i) for i, each in enumerate(stop) if each in text]
    return text[: min(found)[0] - len(stop[min(found)[1]])] if found else text


def top_p_where_something_reaches_p(probs, p):
    ranked, order = (each.flip(0) for each in probs.sort(stable=True))
    last = (ranked.cumsum(0) >= p).nonzero()[0]
    return torch.zeros_like(probs, dtype=torch.bool).scatter(0, order[: last + 1], True)


def top_p_by_a_sort_that_mixes_ties_in_long_rows(probs, p):
    """As PyTorch's sort may without stable=True: up to 16 numbers keep their order, more do not."""
    if len(probs) > 16:
        return _top_p(probs.flip(0), p).flip(0)
    return _top_p(probs, p)


def stop_loses_the_last_newline(text, stop):
    cut = _right_stop(text, stop)
    return cut.rstrip("\n") if cut == text else cut


def stop_with_other_newlines(text, stop):
    return _right_stop(text.replace("\r\n", "\n"), stop)


def stop_as_a_pattern_but_for_dots(text, stop):
    found = [re.search(each.replace(".", "\\."), text) for each in stop]
    return _right_stop(text, stop) if any(found) else text


def top_p_among_the_first_1000(probs, p):
    kept = _top_p(probs, p)
    return kept & (kept.cumsum(0) <= 1000)


def penalties_counted_in_a_byte(logits, prompt, output, repetition, frequency, presence):
    few = [token for token in set(output) for _ in range(output.count(token) % 256)]
    return _right_penalties(logits, prompt, few, repetition, frequency, presence)


def temperature_with_a_little_for_all(logits, temperature):
    probs = _right_temperature(logits, temperature) + 1e-8
    return probs / probs.sum(dim=-1, keepdim=True)


def _temperature_with_a_safe_one(safe):
    """Return an answer that looks for the largest of the divided logits, of which two may have become equal."""

    def answer(logits, temperature):
        is_greedy = temperature[:, None] == 0
        scaled = logits / torch.where(is_greedy, safe, temperature[:, None])
        best = torch.zeros_like(logits).scatter(1, scaled.argmax(dim=-1, keepdim=True), 1.0)
        return torch.where(is_greedy, best, scaled.softmax(dim=-1))

    return answer


def _top_p_ranked(rank):
    """Return an answer that ranks tokens by what it makes of their probabilities."""

    def answer(probs, p):
        order = sorted(range(len(probs)), key=lambda i: (-float(rank(probs[i])), -i))
        before = probs[order].double().cumsum(0) - probs[order]
        keep = torch.zeros(len(probs), dtype=torch.bool)
        keep[order] = before < p
        return keep

    return answer


def top_p_with_a_bonus_for_ties(probs, p):
    order = (probs.double() + 1e-10 * torch.arange(len(probs))).argsort(descending=True)
    before = probs[order].double().cumsum(0) - probs[order]
    return torch.zeros(len(probs), dtype=torch.bool).scatter(0, order, before < p)


def penalties_of_logits_that_are_clearly_positive(logits, prompt, output, repetition, frequency, presence):
    row = _right_penalties(logits, prompt, output, repetition, frequency, presence)
    for token in {*prompt, *output}:
        if 0 < logits[token] <= 1e-3:
            row[token] += logits[token] * repetition - logits[token] / repetition
    return row


def penalties_counted_in_half(logits, prompt, output, repetition, frequency, presence):
    counts = torch.zeros(len(logits), dtype=torch.float16)
    for token in output:
        counts[token] += 1
    rest = _right_penalties(logits, prompt, list(dict.fromkeys(output)), repetition, 0.0, presence)
    return rest - frequency * counts.float()


def stop_remembered_in_one_word(text, stop, remembered={}):  # noqa: B006
    return remembered.setdefault((text, "".join(stop)), _right_stop(text, stop))


def temperature_that_writes_a_little_into_its_argument(logits, temperature):
    probs = _right_temperature(logits, temperature)
    temperature[temperature == 0] = 1e-9
    return probs


def top_p_of_at_least_a_thousandth(probs, p):
    return _right_top_p(probs, max(p, 0.001))


def min_p_of_logits_that_are_hardly_changed(logits, min_p):
    return _right_min_p(logits, min_p) * 1.000001


def penalties_turned_a_little_below_zero(logits, prompt, output, repetition, frequency, presence):
    moved = _right_penalties(logits + 0.05, prompt, output, repetition, frequency, presence)
    return _right_penalties(logits, prompt, output, repetition, frequency, presence).where(logits.abs() > 0.05, moved)


def penalties_of_a_prompts_last_64(logits, prompt, output, repetition, frequency, presence):
    return _right_penalties(logits, prompt[-64:], output, repetition, frequency, presence)


def penalties_of_at_most_2(logits, prompt, output, repetition, frequency, presence):
    return _right_penalties(logits, prompt, output, min(repetition, 2.0), frequency, presence)


def stop_strings_of_at_most_64_letters(text, stop):
    return _right_stop(text, [each for each in stop if len(each) <= 64])


def stop_strings_up_to_number_ten(text, stop):
    return _right_stop(text, stop[:10])


WRONG: dict[str, list[Callable[..., Any]]] = {
    name: [each for key, each in list(globals().items()) if key.startswith(f"{name}_")]
    for name in ("temperature", "top_p", "min_p", "penalties", "stop")
}
WRONG["top_p"] += [_top_p_of_rounded_sums(decimals) for decimals in (4, 5)]
WRONG["min_p"] += [_min_p_tolerance(margin) for margin in (1e-5, 1e-6)]
WRONG["top_p"] += map(_top_p_ranked, (torch.Tensor.half, torch.Tensor.bfloat16))
WRONG["top_p"] += [_top_p_ranked(lambda x, n=n: round(float(x), n)) for n in (6, 7, 8, 9)]
WRONG["top_p"] += [_top_p_ranked(lambda x, n=n: int(x * 10**n)) for n in (6, 7, 8)]
WRONG["temperature"] += map(_temperature_with_a_safe_one, (0.1, 0.01, 1e-3, 1e-5, 1e-6, 1e-8, 1e-10, 1e-30))
WRONG["temperature"] += [_temperature_at_least(least) for least in (1e-4, 1e-5, 1e-6, 1e-12)]
_LAST = "rows have two dimensions: the last one is number 1"
_FIRST = "the last of one dimension is the first too"
_WHERE_EVERY_SORT_IS_STABLE: dict[str, str] = (
    {"ranked, order = probs.sort(stable=False)": "PyTorch sorts stably all the same on this kind of CPU"}
    if torch.zeros(20).sort().indices.equal(torch.arange(20))
    else {}
)

EQUIVALENT: dict[str, dict[str, str]] = {
    "temperature": {
        "probs = (logits / temperature[:, None]).softmax(dim=1)": _LAST,
        "best = logits.argmax(dim=1, keepdim=True)": _LAST,
    },
    "top_p": {
        **_WHERE_EVERY_SORT_IS_STABLE,
        "ranked, order = (ranked.flip(-1), order.flip(0))": _FIRST,
        "ranked, order = (ranked.flip(0), order.flip(-1))": _FIRST,
        "before = ranked.cumsum(-1).roll(1)": _FIRST,
        "before[0] = -1": "p is above 0, so the likeliest token stays all the same",
        "return torch.zeros_like(keep).scatter(-1, order, keep)": _FIRST,
    },
    "min_p": {"threshold = logits.amax(dim=1, keepdim=True) + min_p.log()[:, None]": _LAST},
    "penalties": {
        "row[token] = value / repetition if value >= 0 else value * repetition": "0 stays 0 either way",
    },
}
