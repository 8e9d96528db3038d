"""Wrong answers to the exercises of ``folovllm.course.exercises.data_flow``."""

import fnmatch
import re
import unicodedata
from collections.abc import Callable
from typing import Any

import torch

from folovllm.course.exercises.data_flow.generate import generate_solution
from folovllm.course.exercises.data_flow.share import share_solution
from folovllm.course.exercises.data_flow.shown import shown_solution
from folovllm.course.exercises.data_flow.why import why_solution

# -- share -------------------------------------------------------------------------------------------------


def share_finds_a_request_by_its_need(running, waiting, budget, seats):
    needs = running + waiting
    given = [0] * len(needs)
    for need in needs[:seats]:
        given[needs.index(need)] = min(need, budget)
        budget -= given[needs.index(need)]
    return given


def share_takes_off_the_need(running, waiting, budget, seats):
    given = []
    for i, need in enumerate(running + waiting):
        given.append(min(need, budget) if i < seats else 0)
        budget -= need
    return given


def share_takes_off_once(running, waiting, budget, seats):
    left = budget - sum(running)
    return running + [min(need, max(0, left)) if i + len(running) < seats else 0 for i, need in enumerate(waiting)]


def share_leaves_the_unseated_out(running, waiting, budget, seats):
    given = []
    for need in (running + waiting)[:seats]:
        given.append(min(need, budget - sum(given)))
    return given


def share_stops_at_the_end_of_the_budget(running, waiting, budget, seats):
    given = []
    for need in (running + waiting)[:seats]:
        if sum(given) == budget:
            break
        given.append(min(need, budget - sum(given)))
    return given


def share_changes_the_list(running, waiting, budget, seats):
    running += waiting
    for i, need in enumerate(running):
        running[i] = min(need, budget) if i < seats else 0
        budget -= running[i]
    return running


def share_of_the_waiting(running, waiting, budget, seats):
    given = []
    for need in running + waiting:
        given.append(min(need, budget - sum(given)) if len(given) < seats else 0)
    return given[len(running) :]


def share_as_a_tuple(running, waiting, budget, seats):
    given = ()
    for need in running + waiting:
        given += (min(need, budget - sum(given)) if len(given) < seats else 0,)
    return given


def share_one_for_all_that_run(running, waiting, budget, seats):
    given = [1 for _ in running]
    for need in waiting:
        given.append(min(need, budget - sum(given)) if len(given) < seats else 0)
    return given


def share_without_a_word_about_seats(running, waiting, budget, seats):
    given = []
    for need in running + waiting:
        given.append(min(need, budget))
        budget -= given[-1]
    return given


# -- shown -------------------------------------------------------------------------------------------------


def shown_as_bytes(data, stop):
    return data.decode(errors="ignore").encode()


def shown_up_to_the_first_mark(data, stop):
    return data.decode(errors="replace").split("\ufffd")[0]


def shown_without_the_last_letter(data, stop):
    return data.decode(errors="ignore")[:-1]


def shown_without_a_mark_of_order(data, stop):
    return shown_solution(data, stop).removeprefix("\ufeff")


def shown_composed(data, stop):
    return unicodedata.normalize("NFC", shown_solution(data, stop))


def shown_all_or_nothing(data, stop):
    text = data.decode(errors="ignore")
    return "" if any(text.endswith(each[0]) for each in stop) else text


def shown_stripped(data, stop):
    return data.decode(errors="ignore").rstrip("".join(stop))


def _shown(text, stop):
    return shown_solution(text.encode(), stop)


def shown_without_blanks_at_the_beginning(data, stop):
    return _shown(data.decode(errors="ignore").lstrip(), stop)


def shown_without_blanks_at_the_end(data, stop):
    return _shown(data.decode(errors="ignore").rstrip(), stop)


def shown_without_a_line_end(data, stop):
    return _shown(data.decode(errors="ignore").rstrip("\n"), stop)


def shown_with_single_blanks(data, stop):
    return _shown(" ".join(data.decode(errors="ignore").split()), stop)


def shown_stripped_afterwards(data, stop):
    return _shown(data.decode(errors="ignore"), stop).strip()


def shown_stripped_without_stop_strings(data, stop):
    text = data.decode(errors="ignore")
    return _shown(text, stop) if stop else text.strip()


def shown_by_stripped_stop_strings(data, stop):
    return _shown(data.decode(errors="ignore"), [each.strip() for each in stop])


def shown_by_the_stripped_text(data, stop):
    text = data.decode(errors="ignore")
    held = len(text.rstrip()) - len(_shown(text.rstrip(), stop))
    return text[: len(text) - held]


def shown_of_the_last_line(data, stop):
    return _shown(data.decode(errors="ignore").split("\n")[-1], stop)


def shown_in_one_line(data, stop):
    return _shown(data.decode(errors="ignore").replace("\n", " "), stop)


def shown_by_the_first_that_fits(data, stop):
    text = data.decode(errors="ignore")
    for each in stop:
        for size in range(len(each) - 1, 0, -1):
            if text.endswith(each[:size]):
                return text[:-size]
    return text


def shown_without_the_endless(data, stop):
    text = data.decode(errors="ignore")
    while text and any(each.startswith(text[-1:]) for each in stop):
        text = text[:-1]
    return text


def shown_by_endings_within(data, stop):
    text = data.decode(errors="ignore")
    for start in range(len(text)):
        if any(text[start:] in each for each in stop):
            return text[:start]
    return text


def shown_by_the_shortest_stop(data, stop):
    text = data.decode(errors="ignore")
    for start in range(max(0, len(text) - min(map(len, stop), default=1) + 1), len(text)):
        if any(each.startswith(text[start:]) for each in stop):
            return text[:start]
    return text


def shown_only_for_endings_but_for_one(data, stop):
    text = data.decode(errors="ignore")
    for each in stop:
        if text.endswith(each[:-1]):
            return text[: len(text) - len(each) + 1]
    return text


def shown_with_half_a_character_as_latin(data, stop):
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    for start in range(len(text)):
        if any(each.startswith(text[start:]) for each in stop):
            return text[:start]
    return text


def shown_without_the_last_bytes(data, stop):
    text = data[: len(data) - len(data) % 2].decode(errors="ignore")
    for start in range(len(text)):
        if any(each.startswith(text[start:]) for each in stop):
            return text[:start]
    return text


def shown_ignoring_case(data, stop):
    text = data.decode(errors="ignore")
    for start in range(len(text)):
        if any(each.casefold().startswith(text[start:].casefold()) for each in stop):
            return text[:start]
    return text


def shown_by_the_last(num_characters):
    def shown(data, stop):
        text = data.decode(errors="ignore")
        for start in range(max(0, len(text) - num_characters), len(text)):
            if any(each.startswith(text[start:]) for each in stop):
                return text[:start]
        return text

    shown.__name__ = f"shown_by_the_last_{num_characters}"
    return shown


def shown_without_marks_at_the_end(data, stop):
    text = data.decode(errors="replace").rstrip("\ufffd")
    for start in range(len(text)):
        if any(each.startswith(text[start:]) for each in stop):
            return text[:start]
    return text


def shown_without_marks(data, stop):
    text = data.decode(errors="replace").replace("\ufffd", "")
    for start in range(len(text)):
        if any(each.startswith(text[start:]) for each in stop):
            return text[:start]
    return text


def shown_by_endings_of(text, stop):
    for start in range(len(text)):
        if any(each.startswith(text[start:]) for each in stop):
            return text[:start]
    return text


def shown_without_one_byte(data, stop):
    try:
        return shown_by_endings_of(data.decode(), stop)
    except UnicodeDecodeError:
        return shown_by_endings_of(data[:-1].decode(errors="replace"), stop)


def shown_with_marks_only(data, stop):
    return data.decode(errors="replace")


def shown_with_marks_in_the_endings(data, stop):
    return shown_by_endings_of(data.decode(errors="replace"), stop)


def shown_by_a_regular_expression(data, stop):
    text = data.decode(errors="ignore")
    beginnings = [re.escape(each[:n]) for each in stop for n in range(len(each) - 1, 0, -1)]
    return re.sub(f"(?:{'|'.join(beginnings)})$", "", text) if beginnings else text


# -- why ---------------------------------------------------------------------------------------------------


def why_leaves_eos_out_of_the_length(output, eos, stop_token_ids, min_tokens, max_tokens):
    """From the read-through of the first edition, where it was called right."""
    if len(output) >= min_tokens:
        if output[-1] == eos:
            return "stop", None
        if output[-1] in stop_token_ids:
            return "stop", output[-1]
    return ("length", None) if len([t for t in output if t != eos]) >= max_tokens else None


def why_as_one_word(output, eos, stop_token_ids, min_tokens, max_tokens):
    if len(output) >= min_tokens and output[-1] in (eos, *stop_token_ids):
        return "stop"
    return "length" if len(output) >= max_tokens else None


def why_waits_for_the_length_too(output, eos, stop_token_ids, min_tokens, max_tokens):
    if len(output) < min_tokens:
        return None
    if output[-1] == eos:
        return "stop", None
    if output[-1] in stop_token_ids:
        return "stop", output[-1]
    return ("length", None) if len(output) == max_tokens + 1 else None


def why_min_tokens_for_eos_only(output, eos, stop_token_ids, min_tokens, max_tokens):
    if output[-1] == eos and len(output) >= min_tokens:
        return "stop", None
    if output[-1] in stop_token_ids:
        return "stop", output[-1]
    return ("length", None) if len(output) >= max_tokens else None


def _why_stop_ids_in(part):
    """Return an answer that looks for stop ids in a part of the output.  part: of (output, min_tokens)."""

    def why(output, eos, stop_token_ids, min_tokens, max_tokens):
        if len(output) >= min_tokens and output[-1] != eos:
            for each in stop_token_ids:
                if each in part(output, min_tokens):
                    return "stop", each
        return why_solution(output, eos, stop_token_ids, min_tokens, max_tokens)

    return why


def why_all_stop_ids(output, eos, stop_token_ids, min_tokens, max_tokens):
    if len(output) >= min_tokens:
        if output[-1] == eos:
            return "stop", None
        if output[-1] in stop_token_ids:
            return "stop", stop_token_ids[0]
    return ("length", None) if len(output) >= max_tokens else None


def why_none_as_a_pair(output, eos, stop_token_ids, min_tokens, max_tokens):
    if len(output) >= min_tokens:
        if output[-1] == eos:
            return "stop", None
        if output[-1] in stop_token_ids:
            return "stop", output[-1]
    return ("length", None) if len(output) >= max_tokens else (None, None)


def why_by_identity(output, eos, stop_token_ids, min_tokens, max_tokens):
    if len(output) >= min_tokens:
        if output[-1] is eos:
            return "stop", None
        if output[-1] in stop_token_ids:
            return "stop", output[-1]
    return ("length", None) if len(output) >= max_tokens else None


def why_by_a_true_stop_id(output, eos, stop_token_ids, min_tokens, max_tokens):
    """From the read-through of the second edition: id 0 is false."""
    if len(output) >= min_tokens:
        if output[-1] == eos:
            return "stop", None
        found = next((each for each in stop_token_ids if each == output[-1]), None)
        if found:
            return "stop", found
    return ("length", None) if len(output) >= max_tokens else None


def why_if_there_is_an_eos(output, eos, stop_token_ids, min_tokens, max_tokens):
    """From the read-through of the second edition: id 0 is false."""
    if len(output) >= min_tokens:
        if eos and output[-1] == eos:
            return "stop", None
        if output[-1] in stop_token_ids:
            return "stop", output[-1]
    return ("length", None) if len(output) >= max_tokens else None


def why_if_the_newest_is_true(output, eos, stop_token_ids, min_tokens, max_tokens):
    """From the read-through of the second edition: id 0 is false."""
    last = output[-1]
    if len(output) >= min_tokens:
        if last == eos:
            return "stop", None
        if last and last in stop_token_ids:
            return "stop", last
    return ("length", None) if len(output) >= max_tokens else None


def why_eos_anywhere_from_min_tokens_on(output, eos, stop_token_ids, min_tokens, max_tokens):
    if len(output) >= min_tokens and eos in output[min_tokens - 1 :]:
        return "stop", None
    return why_solution(output, eos, stop_token_ids, min_tokens, max_tokens)


# -- generate ----------------------------------------------------------------------------------------------


def generate_until_eos_is_anywhere(tokenizer, model, sampler, text, max_tokens):
    """From the read-through of the first edition, where it was called right."""
    ids = tokenizer.encode(text)
    length = len(ids)
    while len(ids) - length < max_tokens and tokenizer.eos_token_id not in ids:
        ids.append(int(sampler(model(torch.tensor([ids])).logits[:, -1])))
    return ids[length:]


def generate_without_a_sampler(tokenizer, model, sampler, text, max_tokens):
    """From the read-through of the first edition, where it was called right."""
    ids, output = tokenizer.encode(text), []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        output.append(int(model(torch.tensor([ids + output])).logits[0, -1].argmax()))
    return output


def generate_at_most_64(tokenizer, model, sampler, text, max_tokens):
    prompt, output = tokenizer.encode(text), []
    while len(output) < min(max_tokens, 64) and tokenizer.eos_token_id not in output:
        output.append(int(sampler(model(torch.tensor([prompt + output])).logits[:, -1])))
    return output


def generate_until_eos_itself(tokenizer, model, sampler, text, max_tokens):
    """Right for ids up to 256, of which Python has one object each."""
    prompt, output = tokenizer.encode(text), []
    while len(output) < max_tokens and not (output and output[-1] is tokenizer.eos_token_id):
        output.append(int(sampler(model(torch.tensor([prompt + output])).logits[:, -1])))
    return output


def generate_from_a_short_context(length):
    """Show the model the latest tokens alone."""

    def generate(tokenizer, model, sampler, text, max_tokens):
        return generate_solution(tokenizer, lambda ids: model(ids[:, -length:]), sampler, text, max_tokens)

    generate.__name__ = f"generate_from_{length}_tokens"
    return generate


def generate_a_text(tokenizer, model, sampler, text, max_tokens):
    prompt, output = tokenizer.encode(text), []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        output.append(int(sampler(model(torch.tensor([prompt + output])).logits[:, -1])))
    return tokenizer.decode(output)


def generate_without_an_end(tokenizer, model, sampler, text, max_tokens):
    ids, output = tokenizer.encode(text), []
    for _ in range(max_tokens):
        output.append(int(sampler(model(torch.tensor([ids + output])).logits[:, -1])))
    return output


def generate_from_the_newest(tokenizer, model, sampler, text, max_tokens):
    ids, output = tokenizer.encode(text), []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        ids = [int(sampler(model(torch.tensor([ids])).logits[:, -1]))]
        output += ids
    return output


def generate_tensors(tokenizer, model, sampler, text, max_tokens):
    ids, output = tokenizer.encode(text), []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        token = sampler(model(torch.tensor([ids + output])).logits[:, -1])
        output.append(token)
    return output


def generate_counts_the_prompt(tokenizer, model, sampler, text, max_tokens):
    ids, output = tokenizer.encode(text), []
    while len(ids + output) < max_tokens and tokenizer.eos_token_id not in output:
        output.append(int(sampler(model(torch.tensor([ids + output])).logits[:, -1])))
    return output


def generate_the_text_alone(tokenizer, model, sampler, text, max_tokens):
    ids, output = tokenizer.encode(text), []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        output.append(int(sampler(model(torch.tensor([output + ids])).logits[:, -1])))
    return output


def generate_at_most_one_less(tokenizer, model, sampler, text, max_tokens):
    ids, output = tokenizer.encode(text), []
    for _ in range(max_tokens - 1):
        output.append(int(sampler(model(torch.tensor([ids + output])).logits[:, -1])))
        if output[-1] == tokenizer.eos_token_id:
            break
    return output


def generate_until_the_end(tokenizer, model, sampler, text, max_tokens):
    """From the fifth read-through, where ``check`` never returned."""
    prompt, output = tokenizer.encode(text), []
    while tokenizer.eos_token_id not in output:
        output.append(int(sampler(model(torch.tensor([prompt + output])).logits[:, -1])))
    return output


def generate_until_the_end_and_cuts(tokenizer, model, sampler, text, max_tokens):
    return generate_until_the_end(tokenizer, model, sampler, text, max_tokens)[:max_tokens]


def generate_without_the_batch(tokenizer, model, sampler, text, max_tokens):
    ids, output = tokenizer.encode(text), []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        output.append(int(sampler(model(torch.tensor(ids + output)).logits[:, -1])))
    return output


def generate_from_probabilities(tokenizer, model, sampler, text, max_tokens):
    ids, output = tokenizer.encode(text), []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        output.append(int(sampler(model(torch.tensor([ids + output])).logits[:, -1].softmax(-1))))
    return output


def generate_from_half_the_logits(tokenizer, model, sampler, text, max_tokens):
    ids, output = tokenizer.encode(text), []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        output.append(int(sampler(model(torch.tensor([ids + output])).logits[:, -1] / 2)))
    return output


def generate_calls_the_sampler_twice(tokenizer, model, sampler, text, max_tokens):
    ids, output = tokenizer.encode(text), []
    for _ in range(max_tokens):
        logits = model(torch.tensor([ids + output])).logits[:, -1]
        output.append(int(sampler(logits)))
        if int(sampler(logits)) == tokenizer.eos_token_id:
            break
    return output


def generate_draws_for_every_row(tokenizer, model, sampler, text, max_tokens):
    ids, output = tokenizer.encode(text), []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        output.append(int(sampler(model(torch.tensor([ids + output])).logits[0])[-1]))
    return output


def generate_encodes_the_text_anew(tokenizer, model, sampler, text, max_tokens):
    output = []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        output.append(int(sampler(model(torch.tensor([tokenizer.encode(text)])).logits[:, -1])))
        text += tokenizer.decode([output[-1]])
    return output


def generate_encodes_the_output_anew(tokenizer, model, sampler, text, max_tokens):
    ids, output = tokenizer.encode(text), []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        again = ids + tokenizer.encode(tokenizer.decode(output))
        output.append(int(sampler(model(torch.tensor([again])).logits[:, -1])))
    return output


def generate_ids_of_the_whole_text(tokenizer, model, sampler, text, max_tokens):
    ids, output = tokenizer.encode(text), []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        output.append(int(sampler(model(torch.tensor([ids + output])).logits[:, -1])))
    return tokenizer.encode(text + tokenizer.decode(output))[len(ids) :]


def generate_ids_of_the_new_text(tokenizer, model, sampler, text, max_tokens):
    ids, output = tokenizer.encode(text), []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        output.append(int(sampler(model(torch.tensor([ids + output])).logits[:, -1])))
    return tokenizer.encode(tokenizer.decode(output))


def share_up_to_2048(running, waiting, budget, seats):
    return share_solution(running, waiting, min(budget, 2048), seats)


def share_of_256_seats(running, waiting, budget, seats):
    return share_solution(running, waiting, budget, min(seats, 256))


def share_remembered_by_sums(running, waiting, budget, seats, remembered={}):  # noqa: B006
    key = (sum(running), len(running), sum(waiting), len(waiting), budget, seats)
    return list(remembered.setdefault(key, share_solution(running, waiting, budget, seats)))


def shown_if(begins):
    """Return an answer that asks otherwise whether an ending begins a stop string."""

    def answer(data, stop):
        text = data.decode(errors="ignore")
        return next((text[:i] for i in range(len(text)) if any(begins(text[i:], each) for each in stop)), text)

    return answer


def shown_without_carriage_returns(data, stop):
    return shown_solution(data, stop).replace("\r\n", "\n")


def shown_of_stop_strings_in_one_form(data, stop):
    return shown_solution(data, [unicodedata.normalize("NFC", each) for each in stop])


def why_between_stop_ids(output, eos, stop_token_ids, min_tokens, max_tokens):
    between = range(min(stop_token_ids, default=0), max(stop_token_ids, default=-1) + 1)
    return why_solution(output, eos, list(between), min_tokens, max_tokens)


def why_as_text(output, eos, stop_token_ids, min_tokens, max_tokens):
    found = output[-1:] if str(output[-1]) in str(stop_token_ids) else []
    return why_solution(output, eos, found, min_tokens, max_tokens)


def why_of_16_bits(output, eos, stop_token_ids, min_tokens, max_tokens):
    return why_solution([each % 2**16 for each in output], eos, stop_token_ids, min_tokens, max_tokens)


def why_of_two_stop_ids(output, eos, stop_token_ids, min_tokens, max_tokens):
    return why_solution(output, eos, stop_token_ids[:2], min_tokens, max_tokens)


def why_of_the_last_100(output, eos, stop_token_ids, min_tokens, max_tokens):
    return why_solution(output[-100:], eos, stop_token_ids, min_tokens, max_tokens)


def generate_with_ids_of(dtype):
    """Return an answer whose ids take too few bits for a real vocabulary."""
    return lambda tokenizer, model, *rest: generate_solution(tokenizer, lambda ids: model(ids.to(dtype)), *rest)


def generate_with_logits_of(dtype):
    """Return an answer that rounds the logits."""

    def answer(tokenizer, model, sampler, text, max_tokens):
        return generate_solution(tokenizer, model, lambda row: sampler(row.to(dtype).float()), text, max_tokens)

    return answer


def generate_with_rounded_logits(decimals):
    return lambda tokenizer, model, sampler, *rest: generate_solution(
        tokenizer, model, lambda row: sampler(row.round(decimals=decimals)), *rest
    )


def generate_after_a_prompts_first_100(tokenizer, model, sampler, text, max_tokens):
    return generate_solution(tokenizer, model, sampler, text[:100], max_tokens)


WRONG: dict[str, list[Callable[..., Any]]] = {
    "share": [
        share_finds_a_request_by_its_need,
        share_takes_off_the_need,
        share_takes_off_once,
        share_leaves_the_unseated_out,
        share_stops_at_the_end_of_the_budget,
        share_changes_the_list,
        share_of_the_waiting,
        share_as_a_tuple,
        share_one_for_all_that_run,
        share_without_a_word_about_seats,
    ],
    "shown": [
        shown_by_a_regular_expression,
        shown_without_a_mark_of_order,
        shown_composed,
        shown_as_bytes,
        shown_up_to_the_first_mark,
        shown_without_the_last_letter,
        shown_all_or_nothing,
        shown_stripped,
        shown_without_blanks_at_the_beginning,
        shown_without_blanks_at_the_end,
        shown_without_a_line_end,
        shown_with_single_blanks,
        shown_stripped_afterwards,
        shown_stripped_without_stop_strings,
        shown_by_stripped_stop_strings,
        shown_by_the_stripped_text,
        shown_of_the_last_line,
        shown_in_one_line,
        shown_by_the_first_that_fits,
        shown_without_the_endless,
        shown_by_endings_within,
        shown_by_the_shortest_stop,
        shown_only_for_endings_but_for_one,
        shown_with_half_a_character_as_latin,
        shown_without_the_last_bytes,
        shown_ignoring_case,
        *map(shown_by_the_last, (3, 5, 10)),
        shown_without_marks_at_the_end,
        shown_without_marks,
        shown_without_one_byte,
        shown_with_marks_only,
        shown_with_marks_in_the_endings,
    ],
    "why": [
        why_eos_anywhere_from_min_tokens_on,
        _why_stop_ids_in(lambda output, min_tokens: output[min_tokens - 1 :]),
        why_leaves_eos_out_of_the_length,
        why_as_one_word,
        why_waits_for_the_length_too,
        why_min_tokens_for_eos_only,
        _why_stop_ids_in(lambda output, min_tokens: output),
        why_all_stop_ids,
        why_none_as_a_pair,
        why_by_identity,
        why_by_a_true_stop_id,
        why_if_there_is_an_eos,
        why_if_the_newest_is_true,
    ],
    "generate": [
        generate_until_eos_is_anywhere,
        generate_without_a_sampler,
        generate_at_most_64,
        generate_until_eos_itself,
        *map(generate_from_a_short_context, (512, 1024, 2048)),
        generate_a_text,
        generate_without_an_end,
        generate_from_the_newest,
        generate_tensors,
        generate_counts_the_prompt,
        generate_the_text_alone,
        generate_at_most_one_less,
        generate_until_the_end,
        generate_until_the_end_and_cuts,
        generate_without_the_batch,
        generate_from_probabilities,
        generate_from_half_the_logits,
        generate_calls_the_sampler_twice,
        generate_draws_for_every_row,
        generate_encodes_the_text_anew,
        generate_encodes_the_output_anew,
        generate_ids_of_the_whole_text,
        generate_ids_of_the_new_text,
    ],
}
WRONG["share"] += [share_up_to_2048, share_of_256_seats, share_remembered_by_sums]
WRONG["shown"] += [
    shown_if(lambda ending, stop: re.match(ending, stop)),
    shown_if(lambda ending, stop: fnmatch.fnmatch(stop, ending + "*")),
    shown_if(lambda ending, stop: re.search("^" + re.escape(ending), stop, re.M)),
    shown_without_carriage_returns,
    shown_of_stop_strings_in_one_form,
    *map(shown_by_the_last, (20, 64, 200)),
]
WRONG["why"] += [why_between_stop_ids, why_as_text, why_of_16_bits, why_of_two_stop_ids, why_of_the_last_100]
WRONG["generate"] += [
    generate_with_ids_of(torch.uint8),
    generate_with_ids_of(torch.int16),
    generate_with_logits_of(torch.float16),
    generate_with_logits_of(torch.bfloat16),
    *map(generate_with_rounded_logits, (1, 2, 3)),
    generate_after_a_prompts_first_100,
]
EQUIVALENT: dict[str, dict[str, str]] = {}
