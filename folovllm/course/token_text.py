"""How a token is written in a picture: white space made visible, and Chinese where a font has it."""

from collections.abc import Sequence
from functools import cache

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from transformers import PreTrainedTokenizerBase

from folovllm.course.style import CHINESE_FAMILY
from folovllm.engine.detokenizer import decode_token, token_bytes

_CJK_FONTS = (
    *("Noto Sans Mono CJK", "Noto Sans CJK", "Source Han Sans", "Sarasa", "WenQuanYi", "PingFang", "Hiragino Sans"),
    *("Heiti", "Microsoft YaHei", "SimHei", "SimSun", "Songti", "Arial Unicode", "Droid Sans Fallback", "Unifont"),
)
"""What Linux, macOS and Windows call their fonts with Chinese characters; the better readable ones first."""
_LONGEST = 14


@cache
def token_fonts() -> tuple[str, str]:
    """Return the font families for token labels: a monospaced one, and one with Chinese, the system's or ours."""
    installed = sorted({entry.name for entry in fontManager.ttflist})
    named = [name for wanted in _CJK_FONTS for name in installed if wanted in name]
    return "monospace", next((name for name in named if ord("的") in _characters(name)), CHINESE_FAMILY)


@cache
def _characters(family: str) -> frozenset[int]:
    """Return the characters that a font can draw."""
    return frozenset(get_font(findfont(FontProperties(family=family))).get_charmap())


def visible_text(text: str, fonts: Sequence[str] = ("monospace",)) -> str:
    """Return a token's text for a label: white space made visible, what the fonts lack as a code, not too long.

    fonts: the families that the label is drawn with, as ``token_fonts`` gives them.
    """
    text = text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    shown = "".join(char if _can_draw(char, fonts) else f"<U+{ord(char):X}>" for char in text)
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"


def visible_token(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return a token's text for a label in a monospaced font."""
    return visible_text(decode_token(tokenizer, token_id))


def text_or_bytes(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return a token's text, or its bytes where it is no text: a character may be spread over several tokens.

    Bytes are written as ``<e4 bd>``.
    """
    text = decode_token(tokenizer, token_id)
    in_bytes = token_bytes(tokenizer, token_id, text) if "\ufffd" in text else None
    return text if in_bytes is None else f"<{in_bytes.hex(' ')}>"


def token_label(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return how a token is written in a picture with ``token_fonts``."""
    text = decode_token(tokenizer, token_id)
    told = text_or_bytes(tokenizer, token_id)
    return visible_text(text, token_fonts()) if told == text else told


def _can_draw(char: str, fonts: Sequence[str]) -> bool:
    return any(ord(char) in _characters(family) for family in fonts)
