"""The first cell of every notebook: what this runs on."""

import platform
import sys
from importlib.metadata import version

import torch

from folovllm.model_loader import resolve_device

_PACKAGES = ("folovllm", "torch", "transformers", "ipywidgets")


def print_environment() -> None:
    """Print Python, the packages that matter, and the device that the engine will take.

    Where the notebook has just installed newer packages than the kernel has loaded, say so.
    """
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    device = resolve_device("auto")
    threads = "1 thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} threads"
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else threads
    print(f"Python {platform.python_version()}, {packages}")
    print(f"device: {device} ({hardware})")
    for name in _PACKAGES:
        loaded = getattr(sys.modules.get(name), "__version__", version(name))
        if loaded.partition("+")[0] != version(name).partition("+")[0]:
            print(f"{name} {loaded} is loaded still: restart the kernel (Colab: the session), and begin again")
