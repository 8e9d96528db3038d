"""The first cell of every notebook: what this runs on."""

import platform
from importlib.metadata import version

import torch

from folovllm.model_loader import resolve_device


def print_environment() -> None:
    """Print Python, the packages that matter, and the device that the engine will take."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("folovllm", "torch", "transformers", "ipywidgets"))
    device = resolve_device("auto")
    threads = "1 thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} threads"
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else threads
    print(f"Python {platform.python_version()}, {packages}")
    print(f"device: {device} ({hardware})")
