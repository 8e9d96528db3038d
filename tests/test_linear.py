"""The split products are PyTorch's ``linear``, for any number of rows, and copy no weight."""

import pytest
import torch
from torch.nn import Linear
from torch.nn.functional import linear

from folovllm.models import linear as module
from folovllm.models.linear import SplitLinear


@pytest.fixture(autouse=True, params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def make_layers(*sizes: int, bias: bool = False) -> list[Linear]:
    torch.manual_seed(0)
    return [Linear(48, size, bias=bias) for size in sizes]


@torch.inference_mode()
@pytest.mark.parametrize("bias", [False, True])
def test_any_number_of_rows_gives_what_pytorch_gives(bias):
    layers = make_layers(96, 12, 7 * 12, bias=bias)
    split = SplitLinear(*layers)
    for num_rows in (*range(1, 70), module._MOST_ROWS, module._MOST_ROWS + 1, 500):
        x = torch.randn(num_rows, 48)
        for output, layer in zip(split(x), layers, strict=True):
            torch.testing.assert_close(output, linear(x, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("num_rows", [1, 3, 17, 40])
def test_a_transposed_input_gives_the_same(num_rows):
    [layer] = layers = make_layers(96)
    x = torch.randn(48, num_rows).t()
    [output] = SplitLinear(*layers)(x)
    torch.testing.assert_close(output, linear(x, layer.weight), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_the_input_is_not_changed():
    x = torch.randn(5, 48)
    before = x.clone()
    SplitLinear(*make_layers(96, bias=True))(x)
    assert torch.equal(x, before)


def test_rows_that_do_not_divide_stay_one_block():
    prime = SplitLinear(*make_layers(10_007))
    assert prime._num_blocks == 1
    assert torch.equal(prime(torch.ones(2, 48))[0], linear(torch.ones(2, 48), prime._weights[0]))


def test_blocks_are_one_a_thread_or_of_some_hundred_rows_and_divide_every_weight(threads):
    for sizes in ((96, 12), (100,), (9, 30), (1536, 1536), (49_152,), (151_936,)):
        blocks = SplitLinear(*make_layers(*sizes))._num_blocks
        assert all(size % blocks == 0 for size in sizes)
        assert blocks == 1 or blocks >= threads
        if max(sizes) > 768 * threads:
            assert 768 / 4 < max(sizes) / blocks < 768 * 2


def test_no_weight_is_copied():
    layers = make_layers(96, 12)
    for blocks, layer in zip(SplitLinear(*layers)._blocks, layers, strict=True):
        assert blocks.data_ptr() == layer.weight.data_ptr()


def test_rows_are_padded_to_numbers_that_mkl_is_quick_with():
    assert [module._PADDED[n] for n in range(1, 10)] == [1, 2, 4, 4, 5, 6, 8, 8, 16]
    assert [module._PADDED[n] for n in (16, 17, 32, 33, 192)] == [16, 32, 32, 48, 192]
