"""Make the font of the Chinese figures anew: the 3,755 most common characters of Noto Sans CJK SC, as one small file.

    python scripts/make_font.py

pip fetches the whole font (16 MB, in a wheel of 85 MB) into a folder that is deleted afterwards. With the small one the
notebooks draw the same on every machine, with or without Chinese fonts of its own.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

WHEEL = "mplfonts==0.0.11"
SHA256 = "b5e05ba7fd9a59cae48d1db41f657f50e6765e6f04b8d78504438b93a66b6e13"
SOURCE = "mplfonts/fonts/NotoSansCJKsc-Regular.otf"
TARGET = Path(__file__).parents[1] / "folovllm" / "course" / "fonts" / "NotoSansSC-common.otf"
FAMILY = "FoloVLLM Noto Sans SC"
"""A name of its own, so that no whole font that the machine may have is taken for it."""
FURTHER = "熵阈"  # rarer ones that the course needs
PUNCTUATION = "，。、；：？！“”‘’（）《》「」『』【】…—·～％×　"


def common_characters() -> set[str]:
    """Return the characters of GB 2312's first level, and what stands between them in a text."""
    rows = range(0xB0, 0xD8)
    pairs = (bytes((row, place)) for row in rows for place in range(0xA1, 0xFF if row != 0xD7 else 0xFA))
    return {pair.decode("gb2312") for pair in pairs} | set(PUNCTUATION + FURTHER)


def make_font(source: Path) -> None:
    """Write the characters of a font, under a name of their own."""
    options = subset.Options(layout_features=[], hinting=False, notdef_outline=True, name_IDs="*")
    options.drop_tables += ["BASE", "GPOS", "GSUB", "VORG", "vhea", "vmtx"]
    font = TTFont(source, recalcTimestamp=False)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text="".join(common_characters()))
    subsetter.subset(font)
    for entry in font["name"].names:
        if entry.nameID in (1, 16):
            entry.string = FAMILY
        if entry.nameID in (4, 6):
            entry.string = FAMILY.replace(" ", "" if entry.nameID == 6 else " ")
    font["CFF "].cff.fontNames[0] = FAMILY.replace(" ", "")
    TARGET.parent.mkdir(exist_ok=True)
    font.save(TARGET, reorderTables=False)


def main() -> None:
    """Fetch the font, and write the small one."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
        subprocess.run(command, check=True)
        [wheel] = Path(folder).glob("*.whl")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
            sys.exit(f"{wheel.name} has another SHA-256 than {SHA256}; it is not used")
        make_font(Path(zipfile.ZipFile(wheel).extract(SOURCE, folder)))
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
