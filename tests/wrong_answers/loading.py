"""Wrong answers to the exercises of ``folovllm.course.exercises.loading``."""

import json
import re
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from folovllm.course.exercises.loading.flat_batch import FlatRow, flat_batch_solution
from folovllm.course.exercises.loading.position_ids import position_ids_solution
from folovllm.course.exercises.loading.read_tensor import read_tensor_solution
from tests.wrong_answers.depth import call_for_each


def _cumsum_in_place(mask: Tensor) -> Tensor:
    return mask.cumsum_(dim=1).sub_(1).clamp_(min=0)


def _positions_as_floats(mask: Tensor) -> Tensor:
    return position_ids_solution(mask).float()


def _positions_as_lists(mask: Tensor) -> list[list[int]]:
    return position_ids_solution(mask).tolist()


def _padding_gets_one(mask: Tensor) -> Tensor:
    return (mask.cumsum(dim=1) - 1).masked_fill(mask == 0, 1)


def _all_rows_like_the_first(mask: Tensor) -> Tensor:
    return position_ids_solution(mask[:1]).expand(mask.shape)


def _down_the_columns(mask: Tensor) -> Tensor:
    return (mask.cumsum(dim=0) - 1).clamp(min=0)


def _positions_in_one_byte(mask: Tensor) -> Tensor:
    return position_ids_solution(mask).to(torch.int8)


def _positions_in_one_byte_without_sign(mask: Tensor) -> Tensor:
    return position_ids_solution(mask).to(torch.uint8)


def _positions_in_two_bytes(mask: Tensor) -> Tensor:
    return position_ids_solution(mask).to(torch.int16)


def _position_ends_at_127(mask: Tensor) -> Tensor:
    return position_ids_solution(mask).clamp(max=127)


def _list_of_numbers(content: bytes, name: str) -> Any:
    return read_tensor_solution(content, name).tolist()


def _shape_reversed(content: bytes, name: str) -> Tensor:
    tensor = read_tensor_solution(content, name)
    return tensor.reshape(tensor.shape[::-1])


def _transposed(content: bytes, name: str) -> Tensor:
    tensor = read_tensor_solution(content, name)
    return tensor.permute(*range(tensor.dim())[::-1])


def _two_bytes_of_length(content: bytes, name: str) -> Tensor:
    length = content[0] + 256 * content[1]
    return read_tensor_solution(length.to_bytes(8, "little") + content[8:], name)


def _behind_its_place(content: bytes, name: str) -> Tensor:
    length = int.from_bytes(content[:8], "little")
    entry = json.loads(content[8 : 8 + length])[name]
    rest = bytearray(content[8 + length + entry["data_offsets"][1] :] + bytes(8))
    return torch.frombuffer(rest[: len(rest) // 4 * 4], dtype=torch.float32)


def _always_float32(content: bytes, name: str) -> Tensor:
    return read_tensor_solution(content, name).float()


def _bfloat16_as_float16(content: bytes, name: str) -> Tensor:
    tensor = read_tensor_solution(content, name)
    return tensor.view(torch.float16) if tensor.dtype == torch.bfloat16 else tensor


def _the_first_name_that(suits: Callable[[str, str], bool]) -> Callable[[bytes, str], Tensor]:
    def answer(content: bytes, name: str) -> Tensor:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return read_tensor_solution(content, next(each for each in header if suits(each, name)))

    return answer


def _name_begins_alike(content: bytes, name: str) -> Tensor:
    return _the_first_name_that(str.startswith)(content, name)


def _name_ends_alike(content: bytes, name: str) -> Tensor:
    return _the_first_name_that(str.endswith)(content, name)


def _name_contained(content: bytes, name: str) -> Tensor:
    return _the_first_name_that(str.__contains__)(content, name)


def _nested(sequences: list[list[int]], num_computed: list[int]) -> Any:
    _, positions, last = flat_batch_solution(sequences, num_computed)
    return [tokens[done:] for tokens, done in zip(sequences, num_computed, strict=True)], positions, last


def _newest_tokens_only(sequences: list[list[int]], num_computed: list[int]) -> Any:
    return flat_batch_solution(sequences, [len(tokens) - 1 for tokens in sequences])


def _empties_the_texts(sequences: list[list[int]], num_computed: list[int]) -> Any:
    answer = flat_batch_solution(sequences, num_computed)
    for tokens, done in zip(sequences, num_computed, strict=True):
        del tokens[:done]
    return answer


def _as_a_list(sequences: list[list[int]], num_computed: list[int]) -> Any:
    return list(flat_batch_solution(sequences, num_computed))


def _sorted_by_length(sequences: list[list[int]], num_computed: list[int]) -> Any:
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    return flat_batch_solution([sequences[i] for i in order], [num_computed[i] for i in order])


def _slice_of_whole_numbers(content, name):
    start = 8 + int.from_bytes(content[:8], "little")
    entry = json.loads(content[8:start])[name]
    first, last = entry["data_offsets"]
    size = {"F32": 4, "BF16": 2}[entry["dtype"]]
    kinds = {"F32": torch.float32, "BF16": torch.bfloat16}
    numbers = torch.frombuffer(bytearray(content), dtype=kinds[entry["dtype"]], offset=start, count=last // size)
    return numbers[first // size :].reshape(entry["shape"])


def _list_in(encoding):
    def answer(content, name):
        start = 8 + int.from_bytes(content[:8], "little")
        json.loads(content[8:start].decode(encoding))[name]
        return load(content)[name]

    return answer


def _positions_by_value(sequences, num_computed):
    ids, _positions, rows = flat_batch_solution(sequences, num_computed)
    fresh = [(text, token) for text, done in zip(sequences, num_computed, strict=True) for token in text[done:]]
    return ids, [text.index(token) for text, token in fresh], rows


def _computed_by_value(sequences, num_computed):
    return flat_batch_solution(sequences, [num_computed[sequences.index(text)] for text in sequences])


def _rows_by_value(sequences, num_computed):
    ids, positions, rows = flat_batch_solution(sequences, num_computed)
    return ids, positions, [ids.index(ids[row]) for row in rows]


def _entry_in_the_usual_order(content: bytes, name: str) -> Tensor:
    start = 8 + int.from_bytes(content[:8], "little")
    dtype, shape, (first, last) = json.loads(content[8:start])[name].values()
    kinds = {"F32": torch.float32, "BF16": torch.bfloat16}
    return torch.frombuffer(bytearray(content[start + first : start + last]), dtype=kinds[dtype]).reshape(shape)


def _searched_in_the_text(content: bytes, name: str) -> Tensor:
    start = 8 + int.from_bytes(content[:8], "little")
    text = content[8:start].decode()
    entry, _ = json.JSONDecoder().raw_decode(text[text.index(f'"{name}":') + len(name) + 3 :].lstrip())
    return read_tensor_solution(_one_entry(entry, content[start:]), "x")


def _searched_as_a_pattern(content: bytes, name: str) -> Tensor:
    start = 8 + int.from_bytes(content[:8], "little")
    found = re.search(rf'"{name}":\s*(\{{.*?\}})', content[8:start].decode())
    return read_tensor_solution(_one_entry(json.loads(found[1]), content[start:]), "x")


def _one_entry(entry: dict[str, Any], data: bytes) -> bytes:
    """Return a file in which one entry of another's list is all that there is."""
    first, last = entry["data_offsets"]
    text = json.dumps({"x": entry | {"data_offsets": [0, last - first]}}).encode()
    return len(text).to_bytes(8, "little") + text + data[first:last]


def _by_way_of_bfloat16(content: bytes, name: str) -> Tensor:
    tensor = read_tensor_solution(content, name)
    return tensor.bfloat16().to(tensor.dtype)


def _ids_in_bytes(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    ids, positions, rows = flat_batch_solution(sequences, num_computed)
    return list(bytes(ids)), positions, rows


def _ids_in_float16(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    ids, positions, rows = flat_batch_solution(sequences, num_computed)
    return torch.tensor(ids).half().int().tolist(), positions, rows


def _without_what_marks_padding(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    ids, positions, rows = flat_batch_solution(sequences, num_computed)
    return [each for each in ids if each != 99], positions, rows


def _counted_in_float16(mask: Tensor) -> Tensor:
    return (mask.half().cumsum(1) - 1).clamp(min=0).long()


def _the_same_lists_again(sequences: list[list[int]], num_computed: list[int], kept: Any = ([], [], [])) -> FlatRow:
    for old, new in zip(kept, flat_batch_solution(sequences, num_computed), strict=True):
        old[:] = new
    return kept


def read_tensor_without_infinities(content, name):
    return read_tensor_solution(content, name).nan_to_num()


def read_tensor_by_way_of_float16(content, name):
    numbers = read_tensor_solution(content, name)
    return numbers.half().bfloat16() if numbers.dtype == torch.bfloat16 else numbers


def read_tensor_without_tiny_numbers(content, name):
    numbers = read_tensor_solution(content, name)
    return numbers.where(numbers.abs() > 1e-30, 0)


def read_tensor_whose_list_ends_at_two_braces(content, name):
    entry = json.loads(content[8 : content.index(b"}}") + 2])[name]
    return read_tensor_solution(content, name).reshape(entry["shape"])


def read_tensor_of_three_dimensions(content, name):
    numbers = read_tensor_solution(content, name)
    return numbers.flatten(2) if numbers.dim() > 3 else numbers


def position_ids_of_16_bits(mask):
    return (mask.cumsum(1, dtype=torch.int16).long() - 1).clamp(min=0)


def position_ids_of_four_rows(mask):
    positions = position_ids_solution(mask)
    positions[4:] = 0
    return positions


def flat_batch_of_short_texts(sequences, num_computed):
    return flat_batch_solution(sequences, [min(each, 31) for each in num_computed])


WRONG: dict[str, list[Callable[..., Any]]] = {
    "read_tensor": [
        _entry_in_the_usual_order,
        _searched_in_the_text,
        _searched_as_a_pattern,
        _by_way_of_bfloat16,
        _slice_of_whole_numbers,
        _list_in("ascii"),
        _list_in("latin-1"),
        _list_of_numbers,
        _shape_reversed,
        _transposed,
        _two_bytes_of_length,
        _behind_its_place,
        _always_float32,
        _bfloat16_as_float16,
        _name_begins_alike,
        _name_ends_alike,
        _name_contained,
    ],
    "position_ids": [
        _counted_in_float16,
        _cumsum_in_place,
        _positions_as_floats,
        _positions_as_lists,
        _padding_gets_one,
        _all_rows_like_the_first,
        _down_the_columns,
        _positions_in_one_byte,
        _positions_in_one_byte_without_sign,
        _positions_in_two_bytes,
        _position_ends_at_127,
    ],
    "flat_batch": [
        _ids_in_bytes,
        _ids_in_float16,
        _without_what_marks_padding,
        _the_same_lists_again,
        _positions_by_value,
        _computed_by_value,
        _rows_by_value,
        _nested,
        _newest_tokens_only,
        _empties_the_texts,
        _as_a_list,
        _sorted_by_length,
        call_for_each(flat_batch_solution),
    ],
}
WRONG["read_tensor"] += [
    read_tensor_without_infinities,
    read_tensor_without_tiny_numbers,
    read_tensor_by_way_of_float16,
    read_tensor_whose_list_ends_at_two_braces,
    read_tensor_of_three_dimensions,
]
WRONG["position_ids"] += [position_ids_of_four_rows, position_ids_of_16_bits]
WRONG["flat_batch"] += [flat_batch_of_short_texts]
EQUIVALENT: dict[str, dict[str, str]] = {
    "read_tensor": {
        "start = 8 + int.from_bytes(content[:7], 'little')": "the eighth byte of the length is 0 in every real file",
    },
    "flat_batch": {
        "for tokens, done in zip(sequences, num_computed, strict=False):": "both lists are always of one length",
    },
}
