"""An object that lives in a process of its own, with a Python of its own if need be, and is called from here.

Each engine gets one, so that its peak memory and its threads are its own; and a peer whose packages do not go with ours
(vLLM wants an older transformers) can be measured in the same run, from its own environment.
"""

import os
import pickle
import pkgutil
import subprocess
import sys
import time
import traceback
from typing import Any


class WorkerError(RuntimeError):
    """The object could not be made, or a call of it failed; the message is the other process's traceback."""


class Worker:
    """What ``target(*args)`` returns, made in a new process.

    target: ``module:function``, a module of this folder.  python: the interpreter.
    folder: where it is to look for packages before all other places.
    seconds_to_load: what importing and making it took, without the start of Python itself.
    """

    def __init__(
        self, target: str, *args: Any, python: str = sys.executable, folder: str | os.PathLike[str] | None = None
    ) -> None:
        places = [os.fspath(folder)] if folder else []
        places += filter(None, [os.environ.get("PYTHONPATH")])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen([python, __file__], env=environment, **pipes)
        self.seconds_to_load: float = self.call(target, *args)

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the object; return what it returns. WorkerError if it raises."""
        process = self._process
        assert process.stdin is not None, "asked for as a pipe"
        assert process.stdout is not None, "asked for as a pipe"
        try:
            pickle.dump((method, args), process.stdin)
            process.stdin.flush()
            succeeded, answer = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError) as error:
            raise WorkerError(f"the process ended with exit code {process.wait()}") from error
        if not succeeded:
            raise WorkerError(answer)
        return answer

    def stop(self) -> float:
        """End the process; return its peak memory in GiB."""
        peak: float = self.call("stop")
        self._process.communicate()
        return peak


def peak_gib() -> float:
    """Return the most memory that this process ever held, in GiB."""
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1024**3


def serve() -> None:
    """Make the object that the first message names, and answer calls until ``stop``."""
    # Answers leave through standard output; whatever the engines print goes to standard error.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    made: Any = None
    name = ""
    while name != "stop":
        name, args = pickle.load(sys.stdin.buffer)
        try:
            if name == "stop":
                answer: Any = peak_gib()
            elif made is None:
                started = time.perf_counter()
                made = pkgutil.resolve_name(name)(*args)
                answer = time.perf_counter() - started
            else:
                answer = getattr(made, name)(*args)
            reply = (True, answer)
        except Exception:
            reply = (False, traceback.format_exc())
        pickle.dump(reply, answers)
        answers.flush()


if __name__ == "__main__":
    serve()
