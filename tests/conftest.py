"""What all tests share. The environment is set here, before anything imports torch or transformers."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.update(OMP_WAIT_POLICY="PASSIVE", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", FOLOVLLM_LANG="en")
os.environ.pop("FOLOVLLM_MODEL", None)

import hypothesis
import pytest
import torch

# How long one example takes says more about the machine than about the code.
hypothesis.settings.register_profile("folovllm", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("folovllm")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the kernels beforehand, once for all workers: whoever has to wait for it is told so on stderr."""
    from folovllm.compile_ahead import compile_kernels

    if not hasattr(session.config, "workerinput"):
        compile_kernels()


@pytest.fixture(scope="session")
def bundled_model_path() -> Path:
    """The folder of the bundled model; it is prepared first where it is missing."""
    from folovllm.models import bundled

    return bundled.obtain()


@pytest.fixture(params=["pretended", pytest.param("real", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where a test of a card puts its models: on a pretended one everywhere, and on a real one."""
    from tests.pretended_device import PretendedCard

    if request.param == "real":
        yield "cuda" if torch.cuda.is_available() else "mps"
    else:
        with PretendedCard():
            yield "cuda"


@pytest.fixture(params=["kernels", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test of the sampler on the kernels, and on what runs where there are none."""
    from folovllm.sampling import sampler

    if request.param == "torch":
        monkeypatch.setattr(sampler, "has_kernels", lambda logits: False)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    has_card = torch.cuda.is_available() or torch.backends.mps.is_available()
    no_gpu = pytest.mark.skipif(not has_card, reason="needs a card: CUDA or MPS")
    for item in items:
        if "bundled_model_path" in getattr(item, "fixturenames", ()):
            item.add_marker("bundled")
        if item.get_closest_marker("gpu"):
            item.add_marker(no_gpu)
