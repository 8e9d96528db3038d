"""Pictures of a recording: of many that differ in a corner, one is kept, and what the others change in it."""

import base64
import io
import re

import numpy as np
import PIL.Image

_PICTURE = re.compile(r"data:image/png;base64,([\w+/=]+)")
_PREFIX = "data:image/png;base64,"
_COLOURS = 128
"""As many as the notebooks' pictures have."""


class Pictures:
    """The pictures of one recording, each under its number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def take_from(self, html: str) -> str:
        """Return HTML with numbers, ``picture:0``, where it had pictures; those are remembered."""
        return _PICTURE.sub(lambda found: f"picture:{self._numbers.setdefault(found[1], len(self._numbers))}", html)

    def kept(self) -> list[str]:
        """Return all pictures: the first one, and layers over it, which are transparent where they are the same."""
        pictures = [PIL.Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB") for each in self._numbers]
        return [_encoded(picture, pictures[0] if place else None) for place, picture in enumerate(pictures)]


def _encoded(picture: PIL.Image.Image, below: PIL.Image.Image | None) -> str:
    kept = picture.quantize(_COLOURS, dither=PIL.Image.Dither.NONE)
    if below is not None:
        assert picture.size == below.size, "the pictures of a recording have one size"
        differs = (np.asarray(picture) != np.asarray(below)).any(axis=-1)
        layer = np.dstack([np.asarray(picture), np.where(differs, 255, 0)]).astype(np.uint8)
        layer[~differs] = 0
        kept = PIL.Image.fromarray(layer).quantize(_COLOURS, method=PIL.Image.Quantize.FASTOCTREE)
    buffer = io.BytesIO()
    kept.save(buffer, "png", optimize=True)
    return _PREFIX + base64.b64encode(buffer.getvalue()).decode()
