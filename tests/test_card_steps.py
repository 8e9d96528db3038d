"""A decoding step asks one transfer of a card, and waits for it once."""

import pytest
import torch

from folovllm.models.runner import ModelRunner
from folovllm.models.torch_decoder import TorchDecoder
from folovllm.transfer import receive_together, send_together
from tests.card_steps import PARAMS, decoding_step, huggingface_forward
from tests.pretended_device import PretendedCard


@pytest.mark.parametrize("num_seqs", [1, 8, 32])
@pytest.mark.parametrize("every", PARAMS.values(), ids=PARAMS)
def test_a_step_sends_once_and_waits_once(num_seqs, every):
    step = decoding_step(num_seqs, every, num_layers=1)
    assert (step.uploads, step.downloads, step.waits) == (1, 1, 1)


@pytest.mark.parametrize(
    ("settings", "share"),
    [({}, 0.1), ({"enforce_eager": True}, 0.8), ({"model_impl": "transformers"}, 1.15)],
    ids=["recorded", "folovllm", "transformers"],
)
@pytest.mark.parametrize("every", PARAMS.values(), ids=PARAMS)
def test_a_step_takes_few_operators_beside_huggingfaces_forward(every, settings, share):
    assert decoding_step(8, every, **settings).operators <= share * huggingface_forward(8).operators


MISTAKES = {
    "a host's tensor as an index": lambda logits: logits[torch.arange(len(logits))],
    "a look at a value": lambda logits: logits.clamp(max=logits.max().item()),
    "a mask as an index": lambda logits: logits.masked_scatter(logits < 0, logits[logits < 0]),
    "a list brought up": lambda logits: logits + torch.tensor([0.0], device=logits.device),
}
"""Each with a wait that a step should not have, and that no recording may have."""


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_that_makes_a_step_wait_is_seen(mistake, monkeypatch):
    right = ModelRunner.execute

    def wrong(runner, step):
        return mistake(right(runner, step))

    monkeypatch.setattr(ModelRunner, "execute", wrong)
    assert decoding_step(8, PARAMS["greedy"], num_layers=1).waits > 1


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_what_waits_for_the_card_cannot_be_recorded(mistake, monkeypatch):
    right = TorchDecoder.__call__
    monkeypatch.setattr(TorchDecoder, "__call__", lambda decoder, batch: mistake(right(decoder, batch)))
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        decoding_step(8, PARAMS["greedy"], num_layers=1)
    decoding_step(8, PARAMS["greedy"], num_layers=1, enforce_eager=True)


def test_a_mask_of_the_host_is_refused_in_a_step(monkeypatch):
    right = ModelRunner.execute

    def wrong(runner, step):
        logits = right(runner, step)
        return logits.masked_fill(torch.zeros(logits.shape, dtype=torch.bool), 0)

    monkeypatch.setattr(ModelRunner, "execute", wrong)
    with pytest.raises(RuntimeError, match="two devices"):
        decoding_step(8, PARAMS["greedy"], num_layers=1)


def test_what_travels_together_arrives_as_it_was():
    sent = (
        [torch.tensor([True, False, True]), torch.arange(3.0).double(), None],
        (torch.arange(5, dtype=torch.int32).view(5, 1), torch.empty(0, 3), torch.tensor(7)),
        "words",
        torch.randn(4, 6)[:, ::2],
    )
    with PretendedCard() as card, card.counting() as counts:
        on_card = send_together(sent, torch.device("cuda"))
        back = receive_together(on_card)
        assert {each.device.type for each in (*on_card[0][:2], *on_card[1], on_card[3])} == {"cuda"}
        assert all(map(torch.equal, (*sent[0][:2], *sent[1], sent[3]), (*back[0][:2], *back[1], back[3])))
        assert back[1][0].dtype == torch.int32
        assert (back[0][2], back[2]) == (None, "words")
    assert (counts.uploads, counts.downloads, counts.waits) == (1, 1, 1)
