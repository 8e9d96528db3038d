"""The first cell of every notebook: what this runs on."""

import platform
import sys
from importlib.metadata import version

import torch

from folovllm.language import _, counted
from folovllm.model_loader import resolve_device

_PACKAGES = ("folovllm", "torch", "transformers", "ipywidgets")


def print_environment() -> None:
    """Print Python, the packages that matter, and the device that the engine will take.

    Where the notebook has just installed newer packages than the kernel has loaded, say so.
    """
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    device = resolve_device("auto")
    threads = counted(torch.get_num_threads(), "{n} thread", "{n} threads")
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else threads
    print(f"Python {platform.python_version()}, {packages}")
    print(_("device: {device} ({hardware})").format(device=device, hardware=hardware))
    for name in _PACKAGES:
        loaded = getattr(sys.modules.get(name), "__version__", version(name))
        if loaded.partition("+")[0] != version(name).partition("+")[0]:
            said = _("{name} {version} is loaded still: restart the kernel (Colab: the session), and begin again")
            print(said.format(name=name, version=loaded))
