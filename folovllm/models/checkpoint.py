"""Where a model or a tokenizer is read from, and what is wrong with the files if that fails.

A checkpoint is its user's: whatever goes wrong while it is read ends as a ValueError that names the file.
"""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template
from transformers.utils.hub import cached_file

from folovllm.config import BUNDLED_MODEL
from folovllm.free_memory import is_out_of_memory
from folovllm.models import bundled
from folovllm.models.gguf_loader import find_gguf
from folovllm.models.probe import UnsupportedModelError

_FILES = {
    "config": ("config.json",),
    "model": ("config.json", "generation_config.json"),
    "tokenizer": (
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "tokenizer.json",
    ),
    "generation config": ("generation_config.json",),
}
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Where weights may be, in the order in which transformers looks for them: the first that is there is read."""
_LARGE = ("tokenizer.json", "model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Checkpoint:
    """What one of ``ModelConfig``'s names stands for.

    field: the name's field.  path: a folder or a hub name.  gguf_file: a GGUF file to read instead of the folder.
    revision: a version of what is on the hub.
    """

    field: str
    path: str
    revision: str | None = None
    gguf_file: Path | None = None

    @classmethod
    def locate(cls, field: str, name: str, revision: str | None) -> "Checkpoint":
        """Find it; a ValueError for a revision of what lies on the disk, and for an unclear GGUF file."""
        local = name == BUNDLED_MODEL or Path(name).exists()
        if local and revision is not None:
            raise ValueError(f"ModelConfig.{field}={name!r} is on this disk and has no revision, got {revision!r}")
        if name == BUNDLED_MODEL:
            return cls(field, str(bundled.obtain()))
        try:
            gguf_file = find_gguf(Path(name), instead_of=f"{'config' if field == 'model' else 'tokenizer'}.json")
        except ValueError as error:
            raise ValueError(f"ModelConfig.{field}={name!r}: {error}") from error
        return cls(field, name, revision, gguf_file)

    @contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """Turn any error into a ValueError that names the file. what: a key of ``_FILES``, or another word."""
        try:
            yield
            self._check_small_files(what)
        except Exception as error:
            if isinstance(error, UnsupportedModelError | torch.OutOfMemoryError) or is_out_of_memory(error):
                raise
            where = "a folder, a GGUF file or, online, a hub name is allowed"
            version = "" if self.revision is None else f" at revision {self.revision!r}"
            raise ValueError(
                f"ModelConfig.{self.field}={self.path!r}{version}: its {what} cannot be loaded ({where}). "
                f"{self._blame(what)}{type(error).__name__}: {error}"
            ) from error

    def _check_small_files(self, what: str) -> None:
        """Look into what transformers skips in silence when it is broken: the generation config, for one."""
        for path in self._files(what):
            if path.name not in _LARGE and (problem := _problem_of(path)):
                raise ValueError(f"{path} {problem}")

    def _files(self, what: str) -> list[Path]:
        """Return the files that a part of the model is read from, as far as they are there."""
        if self.gguf_file is not None:
            return []
        found = [path for name in _FILES[what] if (path := self.find(name)) is not None]
        weights = self._weights() if what == "model" else None
        return found if weights is None else [*found, weights]

    def _weights(self) -> Path | None:
        """Return the file with the weights, or their index."""
        return next((path for name in _WEIGHTS if (path := self.find(name)) is not None), None)

    def find(self, name: str) -> Path | None:
        """Return where a file of it lies on this disk, None if it does not."""
        options: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False, "local_files_only": True}
        try:
            found = cached_file(self.path, name, revision=self.revision, **options)
        except OSError:  # no such repository on this disk
            return None
        return None if found is None else Path(found)

    def _blame(self, what: str) -> str:
        """Say which file is broken, or which ones it may be."""
        if self.gguf_file is not None:
            return f"Read: {self.gguf_file}. "
        there = self._files(what)
        files = there + (self.weight_files() if what == "model" else [])
        broken = [f"{path} {problem}" for path in dict.fromkeys(files) if (problem := _problem_of(path))]
        if broken:
            return f"{'; '.join(broken)}. "
        needed = _FILES[what] if what != "model" or self._weights() else _FILES[what] + _WEIGHTS
        absent = sorted(set(needed) - {path.name for path in there})
        return f"Read: {', '.join(map(str, there)) or 'nothing'}; not there: {', '.join(absent) or 'nothing'}. "

    def weight_files(self) -> list[Path]:
        """Return the files that the weights are read from, also those that an index names and that are missing."""
        found = self._weights()
        if found is None:
            return []
        if found.suffix != ".json":
            return [found]
        if _problem_of(found):
            return []  # the index is named for that
        shards = set(json.loads(found.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(found.parent / shard for shard in shards)


def stored_dtypes(path: Path) -> dict[str, str]:
    """Return the dtype of every weight in a file, in the file's own words ("F16", "float16"), without reading them."""
    if path.suffix == ".safetensors":
        # The list of contents alone: to map the file once more would count against ``ulimit -v``.
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return {name: entry["dtype"] for name, entry in header.items() if "dtype" in entry}
    try:
        weights = torch.load(path, map_location="meta", mmap=zipfile.is_zipfile(path), weights_only=True)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(f"torch.load cannot read it: {reason}") from error
    if not isinstance(weights, dict):
        raise ValueError(f"it holds a {type(weights).__name__}, not weights with names")
    tensors = {name: weight for name, weight in weights.items() if isinstance(weight, torch.Tensor)}
    return {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}


def _problem_of(path: Path) -> str | None:
    """Say what is wrong with one file, None if nothing is that shows without the rest."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return None
        if path.suffix == ".bin":
            stored_dtypes(path)
            return None
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jinja":
            compile_template(text)
            return None
        content = json.loads(text)
        if not isinstance(content, dict):
            return f"holds a {type(content).__name__}, not a JSON object"
        if path.name.endswith(".index.json"):
            _check_index(content)
        if path.name == "tokenizer.json":
            Tokenizer.from_file(str(path))
            if "added_tokens" not in content:
                raise ValueError("it lacks the list 'added_tokens', which may be empty")
    except Exception as error:
        return f"is broken ({error})"
    return None


def _check_index(content: dict[str, Any]) -> None:
    """Raise a ValueError for an index of weights that does not name a file in its own folder for each of them."""
    for key in ("weight_map", "metadata"):
        if not isinstance(content.get(key), dict):
            raise ValueError(f"it lacks the object {key!r}")
    if not content["weight_map"]:
        raise ValueError("its 'weight_map' is empty")
    for weight, shard in content["weight_map"].items():
        inside = isinstance(shard, str) and shard and not Path(shard).is_absolute() and ".." not in Path(shard).parts
        if not inside:
            raise ValueError(f"it names {shard!r} for {weight}, not a file in its folder")


def compile_template(template: str) -> None:
    """Raise an error for a chat template that is no template."""
    render_jinja_template(conversations=[], chat_template=template)
