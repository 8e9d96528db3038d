"""``read_tensor``: one tensor out of a safetensors file."""

import json
from random import Random
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from folovllm.course.exercises.exact import nearly_copied
from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Case, Outcome
from folovllm.language import _


def read_tensor_solution(content: bytes, name: str) -> Tensor:
    """Return one tensor of a safetensors file."""
    return load(content)[name]


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


def _not_as_stored(case: Case, outcome: Outcome) -> str:
    """Complain of a tensor whose numbers are nearly right, or take another number of bytes than in the file."""
    right = read_tensor_solution(*case)
    stored = right.dtype
    if not isinstance(outcome.value, Tensor) or outcome.value.dtype == stored:
        return nearly_copied(outcome, right)
    return _("the numbers are right, but your tensor is {dtype}; the list says {stored}, so keep that").format(
        dtype=outcome.value.dtype, stored=stored
    )


def _random_file(random: Random) -> tuple[bytes, str]:
    """Return a safetensors file of one to four tensors, and the name of one: a part of another name perhaps."""
    tensors = {}
    for name in random.sample(["weight", "q", "q.weight", "q.weight_scale", "qk"], random.randint(1, 4)):
        shape = [random.randint(1, 4) for _ in range(random.randint(0, 3))]
        values = torch.tensor([random.randint(-99, 99) / 8 for _ in range(torch.Size(shape).numel())])
        tensors[name] = values.reshape(shape).to(random.choice(list(_DTYPES.values())))
    metadata = random.choice([None, {"format": "pt"}, {"author": "陈"}])
    content = random.choice([save, _pack])(tensors, metadata)
    return random.choice([content, _list_backwards(content)]), random.choice(list(tensors))


def _pack(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Return a file in which tensors follow one another as given; ``save`` puts those of wider numbers first."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, tensor in tensors.items():
        end = len(data) + tensor.nbytes
        stored = next(stored for stored, dtype in _DTYPES.items() if dtype == tensor.dtype)
        header[name] = {"dtype": stored, "shape": list(tensor.shape), "data_offsets": [len(data), end]}
        data += tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    return _with_list(header, data)


def _with_list(header: dict[str, object], data: bytes) -> bytes:
    text = json.dumps(header, ensure_ascii=False).encode()
    return len(text).to_bytes(8, "little") + text + data


def _without_list(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a file's list, and what follows it."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def _list_backwards(content: bytes) -> bytes:
    """Return the same file with its list in the opposite order; the numbers stay where they are."""
    header, data = _without_list(content)
    return _with_list(dict(reversed(header.items())), data)


def _entries_backwards(content: bytes) -> bytes:
    """Return the same file with the parts of each entry of its list in the opposite order."""
    header, data = _without_list(content)
    return _with_list({name: dict(reversed(each.items())) for name, each in header.items()}, data)


_TWO_TENSORS = save({"a": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), "b": torch.tensor([0.5, -0.5])})
_BFLOAT16 = save({"a": torch.tensor([1.0, 2.0]), "w": torch.tensor([[1.5], [-3.0]]).bfloat16()}, {"format": "pt"})
_ODD_PLACE = _pack({"b": torch.tensor([1.5]).bfloat16(), "a": torch.tensor([7.0])}, {"author": "陈"})
_NAMED_IN_UTF_8 = save({"né": torch.tensor([1.5, 2.5]), "n": torch.tensor([3.5])})
_LONG_LIST = save({"a": torch.tensor([1.0, 2.0])}, {"history": "trained " * 9000})  # 70 kB: a length of three bytes
_NAMED_IN_METADATA = save({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])}, {"b": "the bias"})
_QUOTED_NAME = save({'a"b': torch.tensor([1.5]), "a": torch.tensor([2.5])})
_NAME_LIKE_ANOTHER = save({"a1b": torch.tensor([1.0, 2.0]), "a.b": torch.tensor([3.0])})
_MANY_DIGITS = save({"a": torch.tensor([0.1, 1000.3, 1e6, 1e-6])})
_NAMES_IN_NAMES = save({"q": torch.tensor([1.0]), "q.weight": torch.tensor([2.0]), "weight": torch.tensor([3.0])})

# A scale may be tiny and a mask infinite, and metadata may be JSON once more.
_ODD_NUMBERS = _pack(
    {
        "a": torch.tensor([torch.inf, -torch.inf, 1e-31, -1e-40, 3e38, 0.0]),
        "b": torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5),
        "c": torch.arange(5000.0).reshape(50, 100),
        "d": torch.tensor([1e-8, 1e-6, 7e4, 3e38]).bfloat16(),  # no float16 holds them
    },
    {"config": '{"layers": {"first": {"heads": 9}}}'},
)

EXERCISE = Exercise(
    name="read_tensor",
    task="one tensor out of a safetensors file",
    solution=read_tensor_solution,
    cases=[
        (_TWO_TENSORS, "a"),
        (_TWO_TENSORS, "b"),
        (_BFLOAT16, "w"),
        (_ODD_PLACE, "a"),
        (_NAMED_IN_UTF_8, "né"),
        (_list_backwards(_TWO_TENSORS), "a"),
        (_LONG_LIST, "a"),
        (_NAMES_IN_NAMES, "weight"),
        (_list_backwards(_NAMES_IN_NAMES), "q"),
        (_entries_backwards(_TWO_TENSORS), "a"),
        (_NAMED_IN_METADATA, "b"),
        (_QUOTED_NAME, 'a"b'),
        *((each, "a.b") for each in (_NAME_LIKE_ANOTHER, _list_backwards(_NAME_LIKE_ANOTHER))),
        (_MANY_DIGITS, "a"),
        (_ODD_NUMBERS, "a"),
        (_ODD_NUMBERS, "b"),
        (_ODD_NUMBERS, "c"),
        (_ODD_NUMBERS, "d"),
    ],
    generate=_random_file,
    complaint=_not_as_stored,
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
)
