"""The widget that shows a number's bits: a moved box shows other bits, and words say the same."""

import math

import pytest
import torch

from folovllm.course import NumberBits
from folovllm.course.number_bits import bits_of, stored_as


@pytest.mark.parametrize("number", [0.1, -3.0, 257.0, 70000.0, 1e-8, 1e39, math.inf, -0.0])
def test_what_is_stored_is_what_pytorch_stores(number):
    for dtype in ("float32", "bfloat16", "float16"):
        expected = torch.tensor([number], dtype=torch.float64).to(getattr(torch, dtype))
        assert stored_as(number, dtype) == expected.double().item()
        assert int(bits_of(number, dtype), 2) % 2**8 == int(expected.view(torch.uint8)[0])


def test_a_typed_number_changes_words_and_picture():
    widget = NumberBits(5.0)
    before = widget.status.value, widget.picture.value
    assert "bfloat16 0 10000001 0100000 = 5;" in widget.summary()
    widget.number.value = "70,000"
    assert "float32 stores 70000; bfloat16 stores 70144; float16 stores inf" in widget.status.value
    assert "float16 0 11111 0000000000 = inf." in widget.summary()
    assert widget.status.value != before[0]
    assert widget.picture.value != before[1]


def test_without_a_kernel_there_are_a_picture_and_words():
    data, metadata = NumberBits(0.1)._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"] == data["text/plain"] == NumberBits(0.1).summary()


@pytest.mark.parametrize("text", ["five", "1,5"])
def test_what_is_no_number_is_said_and_no_picture_stays_beside_it(text):
    widget = NumberBits(5.0)
    widget.number.value = text
    assert f"&#x27;{text}&#x27; is no number" in widget.status.value
    assert widget.picture.value == ""
    widget.number.value = "6"
    assert "float16 stores 6" in widget.status.value
    assert widget.picture.value
