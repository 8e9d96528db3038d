"""The pretended card itself: it computes, refuses what a card refuses, and counts what a card makes one wait for."""

import numpy as np
import pytest
import torch
from torch.nn.functional import embedding, linear, scaled_dot_product_attention

from tests.pretended_device import CardTensor, Counts, PretendedCard
from tests.tiny_models import tiny_model


@pytest.fixture
def card():
    with PretendedCard() as plugged:
        yield plugged


def counted(card: PretendedCard, function) -> Counts:
    with card.counting() as counts:
        function()
    return counts


MAKERS = {
    "zeros": lambda: torch.zeros(2, 3, device="cuda"),
    "full": lambda: torch.full((2, 3), 0.0, device="cuda:0"),
    "tensor": lambda: torch.tensor([[0.0] * 3] * 2, device="cuda"),
    "to": lambda: torch.zeros(2, 3).to("cuda"),
    "to with a dtype": lambda: torch.zeros(2, 3, dtype=torch.long).to("cuda", torch.float32),
    "cuda": lambda: torch.zeros(2, 3).cuda(),
    "like": lambda: torch.zeros_like(torch.ones(2, 3, device="cuda")),
    "new": lambda: torch.ones(1, device="cuda").new_zeros(2, 3),
    "a list's rows": lambda: torch.zeros(4, 3, device="cuda")[[1, 2]],
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_is_made_on_the_card_says_so(card, make, inference):
    with torch.inference_mode(inference):
        made = make()
        assert made.device == torch.device("cuda:0")
        assert made.is_cuda
        assert not made.is_cpu
        assert (made + 1).device.type == "cuda"
        assert made.cpu().device.type == "cpu"
        assert made.tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("inference", [False, True])
def test_it_computes_what_a_cpu_computes(card, inference):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(inference):

        def compute(x: torch.Tensor) -> torch.Tensor:
            y = linear(x, x, x[:, 0])
            y[1:3] += 2
            y[:, 1] = 5.0
            y[torch.tensor([0, 1], device=x.device), torch.tensor([2, 3], device=x.device)] = 7
            y.view(-1).index_copy_(0, torch.tensor([4], device=x.device), y.new_ones(1))
            q = y[None, None]
            return torch.cat([scaled_dot_product_attention(q, q, q)[0, 0], *y.softmax(-1).split(2)]).sort(-1).values

        assert torch.equal(compute(x.to("cuda")).cpu(), compute(x))


def test_views_share_memory_and_whoever_writes_returns_itself(card):
    x = torch.zeros(4, 4, device="cuda")
    row = x[2]
    assert row.add_(3) is row
    assert x.sum().item() == 12


def test_what_was_made_outside_of_inference_mode_can_be_viewed_and_written_in_it(card):
    x = torch.zeros(4, 4, device="cuda")
    with torch.inference_mode():
        x[:, 1] = x[:, 2] + 1
        first, *_ = x
        first.add_(1)
    x += 1
    assert x.sum().item() == 24


def test_a_model_moves_and_tied_weights_stay_tied(card):
    model = tiny_model("gpt2")
    assert model.lm_head.weight is model.transformer.wte.weight
    before = model.lm_head.weight.detach().clone()
    model.to("cuda")
    assert model.lm_head.weight is model.transformer.wte.weight
    assert all(isinstance(each, CardTensor) for each in [*model.parameters(), *model.buffers()])
    assert torch.equal(model.lm_head.weight.cpu(), before)


REFUSED = {
    "sum of two devices": (lambda x: x + torch.ones(4, 4), "two devices"),
    "product of two devices": (lambda x: x @ torch.ones(4, 4), "two devices"),
    "embedding by a host's ids": (lambda x: embedding(torch.tensor([1]), x), "two devices"),
    "index_copy_ by a host's ids": (lambda x: x.index_copy_(0, torch.tensor([1]), x[:1]), "two devices"),
    "gather by a host's ids": (lambda x: x.gather(1, torch.zeros(4, 1, dtype=torch.long)), "two devices"),
    "a host's values into places": (lambda x: x.index_put_((torch.tensor([1]),), torch.ones(1, 4)), "two devices"),
    "a mask of the host": (lambda x: x.masked_fill(torch.ones(4, 4, dtype=torch.bool), 0), "two devices"),
    "a host's tensor by a card's index": (lambda x: torch.ones(9)[x[0].long()], "two devices"),
    "concatenation": (lambda x: torch.cat([x, torch.ones(4, 4)]), "two devices"),
    "numpy": (lambda x: x.numpy(), "Tensor.cpu"),
    "numpy's array": (lambda x: np.asarray(x), "Tensor.cpu"),
    "a product of whole numbers": (lambda x: x.long() @ x.long(), "not implemented"),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(("mistake", "words"), REFUSED.values(), ids=REFUSED)
def test_what_a_card_refuses_is_refused(card, mistake, words, inference):
    with torch.inference_mode(inference):
        x = torch.ones(4, 4, device="cuda")
        with pytest.raises((RuntimeError, TypeError), match=words):
            mistake(x)


def test_a_number_of_the_host_is_no_other_device(card):
    x = torch.ones(4, 4, device="cuda")
    assert (x * torch.tensor(2.0) + 1).sum().item() == 48
    assert torch.where(x > 0, x, torch.tensor(0.0)).device.type == "cuda"


WAITS = {
    "item": (lambda x: x[0, 0].item(), 1),
    "float": (lambda x: float(x[0, 0]), 1),
    "if": (lambda x: bool((x > 0).all()), 1),
    "tolist": (lambda x: x.tolist(), 1),
    "cpu": (lambda x: x.cpu(), 1),
    "nonzero": (lambda x: x.nonzero(), 1),
    "a mask as an index": (lambda x: x[x > 0], 1),
    "values where a mask is set": (lambda x: x.index_put_((x > 0,), x.new_ones(16)), 1),
    "a number where a mask is set": (lambda x: x.index_put_((x > 0,), torch.tensor(1.0)), 0),
    "a number where an index says": (lambda x: x.__setitem__(x[0].long(), 5.0), 1),
    "the same without a transfer": (lambda x: x.index_fill_(0, x[0].long(), 5.0), 0),
    "unique": (lambda x: x.unique(), 1),
    "equal": (lambda x: torch.equal(x, x), 1),
    "an upload": (lambda x: torch.ones(3).to("cuda"), 1),
    "an upload that nobody waits for, out of memory that is not pinned": (
        lambda x: torch.ones(3).to("cuda", non_blocking=True),
        1,
    ),
    "one out of pinned memory": (lambda x: torch.ones(3).pin_memory().to("cuda", non_blocking=True), 0),
    "a tensor of a list": (lambda x: torch.tensor([1, 2], device="cuda"), 1),
    "a host's tensor as an index": (lambda x: x[torch.tensor([1])], 1),
    "a list as an index": (lambda x: x[[1]], 1),
    "a host's row into a card's": (lambda x: x[0].copy_(torch.ones(4)), 1),
    "synchronize": (lambda x: torch.cuda.synchronize(), 1),
    "arithmetic": (lambda x: (x @ x + 1).softmax(-1).argmax(-1), 0),
    "a row": (lambda x: x[1, 2:], 0),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(("function", "waits"), WAITS.values(), ids=WAITS)
def test_what_makes_the_host_wait_is_counted(card, function, waits, inference):
    with torch.inference_mode(inference):
        x = torch.ones(4, 4, device="cuda")
        assert counted(card, lambda: function(x)).waits == waits


def test_operators_and_bytes_are_counted_and_views_are_free(card):
    with torch.inference_mode():
        x = torch.ones(4, 4, device="cuda")
        assert counted(card, lambda: x.t()[1:].view(torch.int32)).operators == 0
        assert counted(card, lambda: torch.empty(4, device="cuda")).operators == 0
        assert counted(card, lambda: linear(x, x, x[0])).operators == 1
        assert counted(card, lambda: linear(x[None], x, x[0])).operators == 1
        assert counted(card, lambda: x.half()).operators == 1
        q = x[None, None]
        assert counted(card, lambda: scaled_dot_product_attention(q, q, q)).operators == 1
        moved = counted(card, lambda: torch.ones(3).to("cuda").tolist())
    assert (moved.uploads, moved.bytes_up, moved.downloads, moved.bytes_down) == (1, 12, 1, 12)


def test_host_memory_must_not_change_while_it_is_on_its_way(card):
    row = torch.ones(3).pin_memory()
    sent = row.to("cuda", non_blocking=True)
    row[0] = 2
    with pytest.raises(RuntimeError, match="on its way"):
        sent.tolist()


def test_memory_is_counted_and_runs_out():
    with PretendedCard(memory=1000) as card:
        x = torch.zeros(100, device="cuda")
        assert torch.cuda.mem_get_info() == (600, 1000)
        view, y = x[1:], torch.zeros(100, device="cuda")
        assert card.allocated == 800
        with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
            torch.zeros(100, device="cuda")
        del x, y
        assert card.allocated == 400, "the view keeps it"
        del view
        assert (card.allocated, card.peak) == (0, 800)


def test_unplugged_it_leaves_nothing_behind():
    before = torch.cuda.is_available(), torch.cuda.mem_get_info, torch.__future__.get_swap_module_params_on_conversion()
    with PretendedCard():
        assert torch.cuda.is_available()
    after = torch.cuda.is_available(), torch.cuda.mem_get_info, torch.__future__.get_swap_module_params_on_conversion()
    assert after == before
