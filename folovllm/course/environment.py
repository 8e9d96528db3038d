"""The first cell of every notebook: what this runs on."""

import platform
from importlib.metadata import version

import torch

from folovllm.language import _, counted
from folovllm.model_loader import resolve_device


def print_environment() -> None:
    """Print Python, the packages that matter, and the device that the engine will take."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("folovllm", "torch", "transformers", "ipywidgets"))
    device = resolve_device("auto")
    threads = counted(torch.get_num_threads(), "{n} thread", "{n} threads")
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else threads
    print(f"Python {platform.python_version()}, {packages}")
    print(_("device: {device} ({hardware})").format(device=device, hardware=hardware))
