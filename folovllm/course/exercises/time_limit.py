"""A limit of time for a learner's code: a loop that never ends is stopped, whatever thread it runs in."""

import ctypes
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from folovllm.language import _

P = ParamSpec("P")
R = TypeVar("R")
SECONDS = 10.0
"""An answer may take so long with all its inputs; a right one takes less than one second."""
_AGAIN = 0.01  # a loop with a bare `except:` swallows what is raised within; sooner or later it comes between


class TimeIsUp(BaseException):
    """Raised in code that takes too long. Not an Exception, so that ``except Exception`` lets it pass."""

    def __str__(self) -> str:
        return _("was stopped because it took too long (an endless loop, or too much work for a long input?)")


def call_in_time(seconds: float, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function, and raise TimeIsUp in it when so many seconds have passed.

    One call that never returns from C (``sum`` of an endless iterator, say) is not stopped: no interrupt reaches it.
    """
    alarm = _Alarm()
    try:
        alarm.start(seconds)  # in here, for it may ring at once
        return function(*args, **kwargs)
    finally:
        while not alarm.is_over:
            try:
                alarm.stop()
            except TimeIsUp:  # it rang just now
                continue


class _Alarm:
    """Rings in the thread that made it, again and again, until it is stopped.

    A signal would reach the main thread alone, and take the place of a handler that is not ours.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._has_rung = False
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def start(self, seconds: float) -> None:
        """Let it ring for the first time after so many seconds."""
        threading.Thread(target=self._wait, args=(seconds,), daemon=True).start()

    def stop(self) -> None:
        """Let it never ring again; what may be on its way is replaced by one more, and awaited here."""
        with self._lock:
            self._stopped.set()
        if self._has_rung:
            self._has_rung = False
            self._ring()
            while True:  # taken back by None, it would leave a flag up that stops Python 3.11 from tracing
                pass
        self.is_over = True

    def _wait(self, seconds: float) -> None:
        while not self._stopped.wait(seconds):
            with self._lock:
                if not self._stopped.is_set():
                    self._has_rung = True
                    self._ring()
            seconds = _AGAIN

    def _ring(self) -> None:
        """Have TimeIsUp raised before the next jump or call in that thread."""
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(TimeIsUp))
