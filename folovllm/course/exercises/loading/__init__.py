"""The exercises of chapter 04, with their solutions and the mistakes that they catch."""

import json
from random import Random

import torch
from safetensors.torch import load, save
from torch import Tensor

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Case, Outcome
from folovllm.language import _
from folovllm.models.flat_batch import FlatBatch, TokenRun
from folovllm.models.kv_cache import KVCache

FlatRow = tuple[list[int], list[int], list[int]]


def read_tensor_solution(content: bytes, name: str) -> Tensor:
    """Return one tensor of a safetensors file."""
    return load(content)[name]


def position_ids_solution(mask: Tensor) -> Tensor:
    """Return the positions of left-padded tokens; padding gets 0."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def flat_batch_solution(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    """Return what the engine's flat batch holds: token ids, positions, and the rows whose logits are wanted."""
    runs = [
        TokenRun(done, len(tokens) - done, [0] * len(tokens))
        for tokens, done in zip(sequences, num_computed, strict=True)
    ]
    token_ids = [token for tokens, run in zip(sequences, runs, strict=True) for token in tokens[run.start :]]
    cache = KVCache(1, 1, 16, 1, 1, torch.float32, torch.device("cpu"))
    batch = FlatBatch(token_ids, [], runs, cache)
    return token_ids, batch.positions.tolist(), (batch.first_tokens + batch.counts - 1).tolist()


_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}


def _read(content: bytes, name: str, behind: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Read as the third hint does. behind: where the numbers are taken to begin.  dtype: what all are taken for."""
    length = int.from_bytes(content[:8], "little")
    entry = json.loads(content[8 : 8 + length])[name]
    start = 8 + length if behind is None else behind
    first, last = (start + offset for offset in entry["data_offsets"])
    numbers = torch.frombuffer(bytearray(content[first:last]), dtype=dtype or _DTYPES[entry["dtype"]])
    return numbers.reshape(entry["shape"])


def _offsets_from_the_files_beginning(content: bytes, name: str) -> Tensor:
    return _read(content, name, 0)


def _forgets_the_eight_bytes(content: bytes, name: str) -> Tensor:
    return _read(content, name, int.from_bytes(content[:8], "little"))


def _all_float32(content: bytes, name: str) -> Tensor:
    return _read(content, name, dtype=torch.float32)


def _flat(content: bytes, name: str) -> Tensor:
    return load(content)[name].flatten()


def _always_the_first(content: bytes, name: str) -> Tensor:
    length = int.from_bytes(content[:8], "little")
    return next(_read(content, each) for each in json.loads(content[8 : 8 + length]) if each != "__metadata__")


def _length_highest_byte_first(content: bytes, name: str) -> Tensor:
    return _read(int.from_bytes(content[:8], "big").to_bytes(8, "little") + content[8:], name)


def _length_of_one_byte(content: bytes, name: str) -> Tensor:
    return _read(content[:1] + bytes(7) + content[8:], name)


def _data_in_the_lists_order(content: bytes, name: str) -> Tensor:
    """Read the tensor as if the numbers lay in the order of the list, wherever data_offsets says that they begin."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    before = list(header)[: list(header).index(name)]
    sizes = [header[each]["data_offsets"] for each in before if each != "__metadata__"]
    begin = 8 + length + sum(last - first for first, last in sizes)
    return _read(content, name, begin - header[name]["data_offsets"][0])


def _another_dtype(case: Case, outcome: Outcome) -> str:
    """Complain of a tensor whose numbers are right and take another number of bytes than in the file."""
    stored = read_tensor_solution(*case).dtype
    if not isinstance(outcome.value, Tensor) or outcome.value.dtype == stored:
        return ""
    return _("the numbers are right, but your tensor is {dtype}; the list says {stored}, so keep that").format(
        dtype=outcome.value.dtype, stored=stored
    )


_INDEX_DTYPES = (torch.int64, torch.int32)


def _no_index(case: Case, outcome: Outcome) -> str:
    """Complain of positions with which no table can be asked for its rows."""
    if not isinstance(outcome.value, Tensor) or outcome.value.dtype in _INDEX_DTYPES:
        return ""
    return (
        f"the numbers are right, but your tensor is {outcome.value.dtype}; a table of positions takes torch.int64 or "
        "torch.int32 only"
    )


def _columns(mask: Tensor) -> Tensor:
    return torch.arange(mask.shape[1]).expand(mask.shape)


def _columns_without_padding(mask: Tensor) -> Tensor:
    return _columns(mask) * mask


def _from_one(mask: Tensor) -> Tensor:
    return mask.cumsum(dim=1) * mask


def _minus_one_at_padding(mask: Tensor) -> Tensor:
    return mask.cumsum(dim=1) - 1


def _from_the_first_one(mask: Tensor) -> Tensor:
    return (_columns(mask) - mask.argmax(dim=1, keepdim=True)).clamp(min=0)


def _backwards(mask: Tensor) -> Tensor:
    return _columns(mask).flip(1) * mask


def _one_text(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    token_ids, _, rows = flat_batch_solution(sequences, num_computed)
    return token_ids, list(range(len(token_ids))), rows


def _every_token_again(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    return flat_batch_solution(sequences, [0] * len(sequences))


def _positions_from_zero(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    fresh = [tokens[done:] for tokens, done in zip(sequences, num_computed, strict=True)]
    return flat_batch_solution(fresh, [0] * len(fresh))


def _positions_from_one(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    token_ids, positions, rows = flat_batch_solution(sequences, num_computed)
    return token_ids, [position + 1 for position in positions], rows


def _rows_within_each_text(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    token_ids, positions, _ = flat_batch_solution(sequences, num_computed)
    rows = [len(tokens) - done - 1 for tokens, done in zip(sequences, num_computed, strict=True)]
    return token_ids, positions, rows


def _first_rows(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    token_ids, positions, last = flat_batch_solution(sequences, num_computed)
    return token_ids, positions, [0, *(row + 1 for row in last[:-1])]


def _rows_of_the_next(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    token_ids, positions, rows = flat_batch_solution(sequences, num_computed)
    return token_ids, positions, [row + 1 for row in rows]


def _rows_from_the_texts_lengths(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    token_ids, positions, _ = flat_batch_solution(sequences, num_computed)
    return token_ids, positions, [len(tokens) - 1 for tokens in sequences]


def _looked_up_by_content(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    return flat_batch_solution(sequences, [num_computed[sequences.index(tokens)] for tokens in sequences])


def _as_tensors(sequences: list[list[int]], num_computed: list[int]) -> tuple[Tensor, ...]:
    return tuple(map(torch.tensor, flat_batch_solution(sequences, num_computed)))


def _random_file(random: Random) -> tuple[bytes, str]:
    """Return a safetensors file of one to four tensors, and the name of one: a part of another name perhaps."""
    tensors = {}
    for name in random.sample(["weight", "q", "q.weight", "q.weight_scale", "qk"], random.randint(1, 4)):
        shape = [random.randint(1, 4) for _ in range(random.randint(0, 3))]
        values = torch.tensor([random.randint(-99, 99) / 8 for _ in range(torch.Size(shape).numel())])
        tensors[name] = values.reshape(shape).to(random.choice(list(_DTYPES.values())))
    metadata = random.choice([None, {"format": "pt"}])
    content = save(tensors, metadata)
    return random.choice([content, _list_backwards(content)]), random.choice(list(tensors))


def _list_backwards(content: bytes) -> bytes:
    """Return the same file with its list in the opposite order; the numbers stay where they are."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    text = json.dumps(dict(reversed(header.items()))).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _random_mask(random: Random) -> tuple[Tensor]:
    """Return a left-padded mask; it may be wide, and a row may be padding alone."""
    columns = random.choice((random.randint(1, 9), random.randint(1, 9), random.randint(200, 400)))
    places = (0, columns, random.randint(0, columns))
    starts = torch.tensor([[random.choice(places)] for _ in range(random.randint(1, 4))])
    return ((torch.arange(columns) >= starts).long(),)


def _random_sequences(random: Random) -> tuple[list[list[int]], list[int]]:
    """Return sequences of which some are new, some in the midst of their prompt, some about to get their next token.

    Two may be equal, as when two readers ask the same.
    """
    sequences = [[random.randrange(99) for _ in range(random.randint(1, 9))] for _ in range(random.randint(1, 5))]
    sequences += random.choice([[], [list(random.choice(sequences))]])
    return sequences, [random.choice([0, len(each) - 1, random.randrange(len(each))]) for each in sequences]


_TWO_TENSORS = save({"a": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), "b": torch.tensor([0.5, -0.5])})
_BFLOAT16 = save({"a": torch.tensor([1.0, 2.0]), "w": torch.tensor([[1.5], [-3.0]]).bfloat16()}, {"format": "pt"})
_LONG_LIST = save({"a": torch.tensor([1.0, 2.0])}, {"history": "trained " * 9000})  # 70 kB: a length of three bytes
_NAMES_IN_NAMES = save({"q": torch.tensor([1.0]), "q.weight": torch.tensor([2.0]), "weight": torch.tensor([3.0])})
_MASKS = [
    torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]),  # the notes' picture
    torch.tensor([[1, 1, 1]]),
    torch.tensor([[0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 1, 1]]),
    torch.tensor([[0, 0], [0, 1]]),
]

EXERCISES = [
    Exercise(
        name="read_tensor",
        task="one tensor out of a safetensors file",
        solution=read_tensor_solution,
        cases=[
            (_TWO_TENSORS, "a"),
            (_TWO_TENSORS, "b"),
            (_BFLOAT16, "w"),
            (_list_backwards(_TWO_TENSORS), "a"),
            (_LONG_LIST, "a"),
            (_NAMES_IN_NAMES, "weight"),
            (_list_backwards(_NAMES_IN_NAMES), "q"),
        ],
        generate=_random_file,
        complaint=_another_dtype,
        mistakes=[
            Mistake(
                _offsets_from_the_files_beginning,
                "you count data_offsets from the beginning of the file; they count from the end of the list, so "
                "add 8 + the list's length",
            ),
            Mistake(
                _forgets_the_eight_bytes,
                "you add the list's length and forget the 8 bytes before it: all numbers are read 8 bytes too early",
            ),
            Mistake(
                _all_float32,
                "you read every tensor as float32; the list says the dtype of each, and BF16 has 2 bytes per number",
            ),
            Mistake(
                _data_in_the_lists_order,
                "almost: you add up the sizes in the order of the list; the numbers may lie in another order, and "
                "data_offsets says where each tensor begins",
            ),
            Mistake(
                _length_of_one_byte,
                "you take the first byte for the length; the first 8 bytes together are one number",
            ),
            Mistake(
                _length_highest_byte_first,
                "the list that you read ends in the wrong place: the first 8 bytes say how many bytes it has, the "
                'lowest byte first (`"little"`)',
            ),
            Mistake(_flat, "you return the numbers in one row; the list says their shape"),
            Mistake(_always_the_first, "you return the first tensor of the list, whatever name is asked for"),
        ],
        hints=(
            "Three steps: how long is the list, what does it say of this name, which bytes does it mean?",
            "data_offsets count from the end of the list. `torch.frombuffer(bytearray(...), dtype=...)` turns bytes "
            "into numbers; then give them their shape.",
        ),
        code=(
            'start = 8 + int.from_bytes(content[:8], "little")\n'
            "entry = json.loads(content[8:start])[name]\n"
            'first, last = entry["data_offsets"]\n'
            'kinds = {"F32": torch.float32, "BF16": torch.bfloat16}\n'
            "part = bytearray(content[start + first : start + last])\n"
            'return torch.frombuffer(part, dtype=kinds[entry["dtype"]]).reshape(entry["shape"])'
        ),
    ),
    Exercise(
        name="position_ids",
        task="the positions of left-padded tokens",
        solution=position_ids_solution,
        cases=[(mask,) for mask in _MASKS],
        generate=_random_mask,
        complaint=_no_index,
        mistakes=[
            Mistake(
                _columns,
                "you count columns: for the mask [0 0 1 1 1] the first real token gets position 2; it is the first of "
                "its text, so it must get 0",
            ),
            Mistake(
                _columns_without_padding,
                "you count columns, though padding gets 0: for the mask [0 0 1 1 1] the first real token must get 0 "
                "too, and gets 2; count the real tokens alone",
            ),
            Mistake(_from_one, "you start at 1; the first position is 0, and so every token is one place too far"),
            Mistake(
                _minus_one_at_padding,
                "padding before the text gets -1; no table of positions has such a row (on a GPU that ends the "
                "program), so give it 0",
            ),
            Mistake(
                _from_the_first_one,
                "almost: you count from the first 1 of a row, and a row of padding alone has none (`argmax` then says "
                "0); padding gets 0 there too",
            ),
            Mistake(_backwards, "you count from the end; the first real token has position 0, the last the largest"),
        ],
        hints=(
            "How many real tokens are there up to a column?",
            "`cumsum` along the row counts them. The first must get 0, and padding must not fall below it.",
        ),
        code="return (mask.cumsum(dim=1) - 1).clamp(min=0)",
    ),
    Exercise(
        name="flat_batch",
        task="the new tokens of several texts in one row",
        solution=flat_batch_solution,
        cases=[
            ([[7, 8, 9]], [0]),
            ([[7, 8, 9], [5, 6]], [0, 0]),
            ([[7, 8, 9, 4], [5, 6], [3]], [3, 1, 0]),
            ([[7, 8, 9], [7, 8, 9]], [0, 2]),
        ],
        generate=_random_sequences,
        mistakes=[
            Mistake(
                _one_text,
                "you count positions over the whole row, as if all were one text; each text has its own, and its "
                "first new token has position num_computed",
            ),
            Mistake(
                _every_token_again,
                "you put every token into the row; those that are computed already lie in the KV cache",
            ),
            Mistake(
                _positions_from_zero,
                "you begin each text at position 0; the tokens in the KV cache stand before its new ones, so begin at "
                "num_computed",
            ),
            Mistake(
                _positions_from_one,
                "you count positions from 1; a text's first token has position 0, so what is new begins at "
                "num_computed",
            ),
            Mistake(
                _rows_within_each_text,
                "you count the last rows from the beginning of each text; the logits of all texts come in one row, "
                "so count from its beginning",
            ),
            Mistake(
                _rows_from_the_texts_lengths,
                "your last rows are the last positions of the texts; a row counts only what is new, and the texts "
                "before it stand in front",
            ),
            Mistake(
                _looked_up_by_content,
                "almost: you look for each text among all of them, and find the first of two equal ones; go through "
                "both lists together, with zip",
            ),
            Mistake(_as_tensors, "you return tensors; three lists of whole numbers are asked for"),
            Mistake(_first_rows, "you give the first row of each text; the next token is asked for at its last one"),
            Mistake(_rows_of_the_next, "your last rows are one too far: they are the first rows of the texts behind"),
        ],
        hints=(
            "Go from text to text and put what is new of it at the end of the row.",
            "Positions run from num_computed to the text's length. After each text the last row is the length of the "
            "row so far, minus 1.",
        ),
        code=(
            "token_ids, positions, last_rows = [], [], []\n"
            "for tokens, done in zip(sequences, num_computed, strict=True):\n"
            "    token_ids += tokens[done:]\n"
            "    positions += range(done, len(tokens))\n"
            "    last_rows.append(len(token_ids) - 1)\n"
            "return token_ids, positions, last_rows"
        ),
    ),
]
