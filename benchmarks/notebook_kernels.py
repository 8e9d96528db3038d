"""How much memory a room full of notebooks takes: 1, 4 and 8 Jupyter kernels on one machine.

    python benchmarks/notebook_kernels.py

Each kernel does what a notebook does first: it loads the bundled model and generates 16 tokens. The
weights are the pages of one file, which the system keeps once for all kernels; only what a kernel writes is
its own. PSS (proportional set size) counts a page that n processes share as 1/n in each, so the sum over all
kernels is what they take together; USS is what one of them has for itself alone. No other program may have the model
or PyTorch open meanwhile: a part of their pages would be counted as its. Linux only.
"""

import os
from contextlib import ExitStack

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import psutil
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

COUNTS = (1, 4, 8)
SECONDS_TO_START = 180
WORK = """
import os, folovllm, folovllm.course.public
llm = folovllm.LLM()
llm.generate("Once upon a time", folovllm.SamplingParams(temperature=0, max_tokens=16), use_tqdm=False)
"""


def start(stack: ExitStack) -> int:
    """Start a kernel, let it generate, keep it; return its process id."""
    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=SECONDS_TO_START)
    stack.callback(end, manager, client)
    reply = client.execute_interactive(
        WORK, user_expressions={"pid": "os.getpid()"}, timeout=SECONDS_TO_START, output_hook=lambda message: None
    )["content"]
    if reply["status"] != "ok":
        raise RuntimeError(f"a kernel failed: {reply['ename']}: {reply['evalue']}")
    return int(reply["user_expressions"]["pid"]["data"]["text/plain"])


def end(manager: KernelManager, client: BlockingKernelClient) -> None:
    """End a kernel."""
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def main() -> None:
    """Measure, and print a Markdown table."""
    print("| kernels | together, GiB (PSS) | each further one, GiB | part of the first | its own pages, GiB (USS) |")
    print("|---" * 5 + "|", flush=True)
    with ExitStack() as stack:
        processes: list[psutil.Process] = []
        alone = 0.0
        for count in COUNTS:
            while len(processes) < count:
                processes.append(psutil.Process(start(stack)))
            memory = [process.memory_full_info() for process in processes]
            together = sum(info.pss for info in memory) / 2**30
            alone = alone or together
            further = (together - alone) / max(count - 1, 1)
            cells = (f"{further:.2f}", f"{further / alone:.0%}") if count > 1 else ("-", "-")
            own = max(info.uss for info in memory) / 2**30
            print(f"| {count} | {together:.2f} | {' | '.join(cells)} | {own:.2f} |", flush=True)


if __name__ == "__main__":
    main()
