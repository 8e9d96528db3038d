"""Read a model and its tokenizer from a GGUF file, llama.cpp's format: the weights' blocks are unpacked.

transformers does the reading. It leaves some of what a file says unread; where that would change the tokens, the file
is mended here or refused. (vLLM: its plugin ``vllm-gguf-plugin``.)
"""

import math
import tempfile
import warnings
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_gguf_pytorch_utils import (
    GGUF_TO_TRANSFORMERS_MAPPING,
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

_SPLIT_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
_SPLIT_AS_GPT2 = {
    "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "gigachat", "a.x-4.0", "mellum", "exaone4",
}  # fmt: skip
"""Names of ways to split text into words (``tokenizer.ggml.pre``), as llama.cpp groups them."""
_LOOKED_AFTER = (
    "rope.scaling.", "rope.scale_linear", "attention.sliding_window",  # by checks of their own
    "vocab_size", "embedding_length", "feed_forward_length", "expert_feed_forward_length",  # by the weights' shapes
    "expert_shared_feed_forward_length", "attention.key_length", "attention.value_length",
    "context_length", "tensor_data_layout",  # change nothing that is computed
)  # fmt: skip
_ROPE_TENSORS = ("rope_freqs", "rope_factors_long", "rope_factors_short")


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


def check_what_was_read(file: Path, config: PreTrainedConfig, stored: PreTrainedConfig, model: PreTrainedModel) -> None:
    """Raise a ValueError if transformers left out something of the file that changes what the model computes.

    config: the model's.  stored: what the file says, without hf_overrides.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    if (parts := _value(reader, "split.count") or 1) > 1:
        raise ValueError(f"it is one of {parts} files of a split model; join them (llama-gguf-split --merge)")
    scaled = any((each or {}).get("rope_type", "default") != "default" for each in _ropes(config))
    if not scaled and _scales_rope(reader):
        raise ValueError("transformers leaves out its rope scaling; give it as hf_overrides={'rope_parameters': ...}")
    window = _value(reader, f"{_value(reader, 'general.architecture')}.attention.sliding_window")
    if window and not getattr(config, "sliding_window", None):
        raise ValueError("transformers leaves out its window; give it as hf_overrides={'sliding_window': ...}")
    if settings := _unread_settings(reader, config, model):
        raise ValueError(f"transformers' {config.model_type} leaves out its {', '.join(settings)}")
    if tensors := _unread_tensors(reader, stored, model):
        names = ", ".join(tensors[:3]) + (", ..." if len(tensors) > 3 else "")
        raise ValueError(f"it holds tensors that are in no weight of transformers' {config.model_type}: {names}")


def _scales_rope(reader: Any) -> bool:
    architecture = _value(reader, "general.architecture")
    kind, factor, old_factor = (
        _value(reader, f"{architecture}.rope.{key}") for key in ("scaling.type", "scaling.factor", "scale_linear")
    )
    by_factor = kind is None and (factor or old_factor or 1) != 1  # llama.cpp takes a factor alone for linear
    return kind not in (None, "none") or by_factor or any(tensor.name.startswith("rope_f") for tensor in reader.tensors)


def _unread_settings(reader: Any, config: PreTrainedConfig, model: PreTrainedModel) -> list[str]:
    """Return the keys that transformers does not read, unless they are off, or the model does so anyway."""
    architecture = _value(reader, "general.architecture")
    theta = {"rope.freq_base": next((each["rope_theta"] for each in _ropes(config) if "rope_theta" in each), None)}
    as_it_is = config.to_dict() | theta | {"attention.causal": True}
    mapping: dict[str, Any] = GGUF_TO_TRANSFORMERS_MAPPING["config"]  # type: ignore[assignment]
    read = mapping.get(architecture) or mapping.get(config.model_type) or {}
    unread = []
    for field in reader.fields:
        prefix, _, key = field.partition(".")
        if prefix != architecture or key in read or key.startswith(_LOOKED_AFTER):
            continue
        value = _value(reader, field)
        same = key in as_it_is and (value == as_it_is[key] or _are_close(value, as_it_is[key]))
        off = (not value and key not in as_it_is) or (key.endswith("_scale") and value == 1)
        if not (same or off):
            unread.append(f"{key!r} ({value!r})")
    rotated = _value(reader, f"{architecture}.rope.dimension_count")
    angles = [buffer for name, buffer in model.named_buffers() if name.endswith("rotary_emb.inv_freq")]
    if rotated and angles and rotated != 2 * angles[0].numel():
        unread.append(f"'rope.dimension_count' ({rotated})")
    return unread


def _are_close(value: Any, other: Any) -> bool:
    """Compare a number of the file, in float32, with one that was rounded less."""
    return isinstance(value, float) and isinstance(other, int | float) and math.isclose(value, other, rel_tol=1e-6)


def _unread_tensors(reader: Any, stored: PreTrainedConfig, model: PreTrainedModel) -> list[str]:
    """Return the tensors that end up in no weight, by transformers' own map from theirs to the model's names."""
    architecture = _value(reader, "general.architecture")
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)()  # type: ignore[no-untyped-call]
    weights = get_gguf_hf_weights_map(model, processor)
    cut = range(model.config.num_hidden_layers, stored.num_hidden_layers)  # by hf_overrides
    unread = []
    for tensor in reader.tensors:
        parts = tensor.name.split(".")
        mapped = tensor.name in weights or tensor.name.removesuffix(".weight") in weights  # experts lack the suffix
        in_cut_layer = parts[0] == "blk" and parts[1].isdigit() and int(parts[1]) in cut
        if not (mapped or in_cut_layer or parts[0] in _ROPE_TENSORS):
            unread.append(tensor.name)
    return unread


def _ropes(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """Return a config's rope settings, and those for each kind of layer."""
    rope = config.rope_parameters or {}
    return [rope, *(value for value in rope.values() if isinstance(value, dict))]


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
    if _value(reader, "tokenizer.ggml.model") == "gpt2" and not isinstance(
        backend.pre_tokenizer, pre_tokenizers.Sequence
    ):
        split_words_the_way(_value(reader, "tokenizer.ggml.pre"), backend, file)


def split_words_the_way(way: str | None, backend: Tokenizer, file: Path) -> None:
    """Make a byte-level tokenizer, which splits as GPT-2's does, split text into words in another way.

    way: ``tokenizer.ggml.pre`` of ``file``; a ValueError for one that is not known here.
    """
    if way in _SPLIT_DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif way is None:
        warnings.warn(f"{file} does not say how its tokenizer splits text; GPT-2's way is taken", stacklevel=2)
    elif way not in _SPLIT_AS_GPT2:
        raise ValueError(f"its tokenizer splits text the way {way!r}, which is not known here; give a tokenizer folder")
