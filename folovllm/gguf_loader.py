"""Read a model and its tokenizer from a GGUF file, llama.cpp's format: the weights' blocks are unpacked.

transformers does the reading. It leaves some of what a file says unread; where that would change the tokens, the file
is mended here or refused. (vLLM: its plugin ``vllm-gguf-plugin``.)
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_SPLIT_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
_SPLIT_AS_GPT2 = {
    "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "gigachat", "a.x-4.0", "mellum", "exaone4",
}  # fmt: skip
"""Names of ways to split text into words (``tokenizer.ggml.pre``), as llama.cpp groups them."""


def find_gguf(path: Path, instead_of: str) -> Path | None:
    """Return ``path`` if it is a GGUF file, or the only one in a folder that lacks the file ``instead_of``."""
    if path.is_file():
        if path.suffix != ".gguf":
            raise ValueError(f"a model's file must end in .gguf (else a folder is allowed), got {str(path)!r}")
        return path
    if not path.is_dir() or (path / instead_of).exists():
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{path} holds {len(files)} GGUF files ({names}); name the one to load")
    return files[0] if files else None


def read_gguf(auto_class: Any, file: Path, **options: Any) -> Any:
    """Return what one of transformers' ``Auto...`` classes makes of a GGUF file alone, whatever lies beside it.

    Raises a ValueError that names a package that is missing.
    """
    for package in ("gguf", "accelerate"):
        try:
            __import__(package)
        except ImportError as error:
            raise ValueError(f"reading GGUF files needs the package {package!r}: pip install {package}") from error
    with tempfile.TemporaryDirectory() as empty:
        read = auto_class.from_pretrained(empty, gguf_file=str(file.absolute()), **options)
    # Together with output_loading_info, a model comes in a tuple.
    (read[0] if isinstance(read, tuple) else read).name_or_path = str(file)
    return read


def check_what_was_read(file: Path, config: PreTrainedConfig, model: PreTrainedModel) -> None:
    """Raise a ValueError if transformers left out something of the file that changes what the model computes.

    Rope scaling, a window of attention, and biases: it reads them for some architectures only.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    architecture = _value(reader, "general.architecture")
    rope = config.rope_parameters or {}
    plain = all((each or {}).get("rope_type", "default") == "default" for each in [rope, *_nested(rope)])
    names = [tensor.name for tensor in reader.tensors]
    scaling = _value(reader, f"{architecture}.rope.scaling.type") not in (None, "none")
    if plain and (scaling or any(name.startswith("rope_f") for name in names)):
        raise ValueError("transformers leaves out its rope scaling; give it as hf_overrides={'rope_parameters': ...}")
    window = _value(reader, f"{architecture}.attention.sliding_window")
    if window and not getattr(config, "sliding_window", None):
        raise ValueError("transformers leaves out its window; give it as hf_overrides={'sliding_window': ...}")
    num_biases = sum(name.endswith(".bias") for name in names)
    if num_biases > sum(name.endswith("bias") for name, _ in model.named_parameters()):
        raise ValueError(f"it holds {num_biases} biases, which transformers' {config.model_type} does not have")


def _nested(rope: dict[str, Any]) -> list[Any]:
    return [value for value in rope.values() if isinstance(value, dict)]


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def split_as_the_file_says(tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Make a tokenizer split text into words as its GGUF file says, where transformers does not.

    transformers knows some names of ``tokenizer.ggml.pre`` and takes GPT-2's way for all others, which makes other
    tokens: a ValueError where neither it nor this function knows the name.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    backend = tokenizer.backend_tokenizer
    if _value(reader, "tokenizer.ggml.model") != "gpt2" or isinstance(backend.pre_tokenizer, pre_tokenizers.Sequence):
        return
    way = _value(reader, "tokenizer.ggml.pre")
    if way in _SPLIT_DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif way is None:
        warnings.warn(f"{file} does not say how its tokenizer splits text; GPT-2's way is taken", stacklevel=2)
    elif way not in _SPLIT_AS_GPT2:
        raise ValueError(f"its tokenizer splits text the way {way!r}, which is not known here; give a tokenizer folder")
