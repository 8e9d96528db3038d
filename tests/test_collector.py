"""While the package is imported and a model is loaded, the garbage collector rests; afterwards it is as it was."""

import gc
import subprocess
import sys

import pytest

from folovllm.collector import collector_paused
from folovllm.engine import llm_engine
from tests.tiny_models import tiny_llm


@pytest.fixture(autouse=True)
def collector():
    yield
    gc.enable()


def test_it_rests_and_goes_on():
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_an_error():
    with pytest.raises(ZeroDivisionError), collector_paused():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_whoever_had_turned_it_off_finds_it_off():
    gc.disable()
    with collector_paused():
        pass
    assert not gc.isenabled()


def test_it_rests_while_a_model_is_loaded(monkeypatch):
    seen = []
    check = llm_engine.check_given_model
    monkeypatch.setattr(llm_engine, "check_given_model", lambda *given: (seen.append(gc.isenabled()), check(*given)))
    tiny_llm()
    assert seen == [False]
    assert gc.isenabled()


@pytest.mark.parametrize("statement", ["from folovllm import LLM", "from folovllm.course import check"])
def test_no_import_of_ours_is_gone_through(statement):
    program = f"""
import gc
import folovllm, folovllm.course
before = gc.get_stats()[2]["collections"]
{statement}
assert gc.get_stats()[2]["collections"] == before
assert gc.isenabled()
"""
    subprocess.run([sys.executable, "-c", program], timeout=120, check=True)
