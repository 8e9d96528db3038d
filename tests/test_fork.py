"""An LLM in a forked child: it goes on, or says why it cannot; it never waits for a thread that has stayed behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")

COMMON = """
import os, sys, threading
from folovllm import SamplingParams
from tests.tiny_models import tiny_llm
llm = tiny_llm()
def run(count=5):
    params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
    return llm.generate({"prompt_token_ids": [5, 6, 7]}, params, use_tqdm=False)[0].outputs[0].token_ids
expected = run()
"""

AT_REST = """
pid = os.fork()
if pid == 0:
    os._exit(0 if run() == expected else 1)
assert os.waitpid(pid, 0)[1] == 0 and run() == expected
"""

IN_THE_MIDDLE_OF_A_STEP = """
inside, over = threading.Event(), threading.Event()
runner = llm.llm_engine.model_runner
execute = runner.execute
def wait_inside(step):
    inside.set()
    over.wait()
    return execute(step)
runner.execute = wait_inside
thread = threading.Thread(target=run)
thread.start()
inside.wait()
pid = os.fork()
if pid == 0:
    try:
        run()
    except RuntimeError as error:
        os._exit(0 if "forked while another thread" in str(error) else 1)
    os._exit(2)
assert os.waitpid(pid, 0)[1] == 0
over.set()
thread.join()
assert run() == expected
"""


@pytest.mark.parametrize("script", [AT_REST, IN_THE_MIDDLE_OF_A_STEP], ids=["at-rest", "in-the-middle-of-a-step"])
def test_a_forked_child_generates_or_says_why_it_cannot(script):
    root = Path(__file__).resolve().parent.parent
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", COMMON + script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
