"""What is encoded here is decoded by Pillow to the same pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from folovllm.course.png import encode_png


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 5, 4), (200, 333, 4)])
def test_pixels_come_back(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    image = Image.open(io.BytesIO(encode_png(pixels)))
    assert image.mode == "RGB"
    assert (np.asarray(image) == pixels[..., :3]).all()
