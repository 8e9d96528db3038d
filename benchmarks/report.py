"""Put measured figures into README.md: tables between their markers, plots into figures/. Never by hand.

python benchmarks/report.py build/bench/*.json
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import figures
import tables

FOLDER = Path(__file__).parent
ALT_TEXTS = {
    "speed": "Tokens a second by workload and engine",
    "growth": "Milliseconds by size, both axes logarithmic",
    "waits": "Seconds in a fresh process",
}


def blocks(data: dict[str, Any]) -> dict[str, str]:
    """Return what stands between which markers, for one JSON file. ValueError for a kind that has no place."""
    match data["kind"]:
        case "speed":
            found = {
                "speed": f"{tables.settings_line(data)}\n\n{tables.speed_table(data)}",
                "goals": tables.goals_table(data),
                "first-token": tables.first_token_table(data),
                "roofline": tables.roofline_table(data),
                "sampler": tables.sampler_table(data["sampler"]) if data["sampler"] else "",
            }
        case "speed-default":
            parts = [tables.settings_line(data), tables.speed_table(data), tables.goals_table(data)]
            found = {"speed-default": "\n\n".join(parts)}
        case "growth":
            found = {"growth": "\n\n".join(tables.growth_table(part) for part in data["parts"])}
        case "waits":
            found = {"waits": f"{tables.waits_table(data)}\n\n{tables.imports_table(data)}"}
        case kind:
            raise ValueError(f"figures of kind {kind!r} have no place in the README")
    if data["kind"] in ALT_TEXTS:  # the block that has the kind's name ends with its plot
        found[data["kind"]] += f"\n\n![{ALT_TEXTS[data['kind']]}](figures/{data['kind']}.png)"
    return {name: text for name, text in found.items() if text}


def insert(readme: str, name: str, text: str) -> str:
    """Return the README with ``text`` between ``<!-- name -->`` and ``<!-- /name -->``; ValueError without them."""
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    changed, count = pattern.subn(lambda match: f"{match[1]}{text}\n{match[2]}", readme)
    if count != 1:
        raise ValueError(f"README.md must have the markers of {name!r} once, found {count}")
    return changed


def plot(data: dict[str, Any]) -> bytes:
    """Return the plot of one JSON file as PNG."""
    draw = {"speed": figures.plot_speed, "growth": figures.plot_growth, "waits": figures.plot_waits}
    return draw[data["kind"]](data)


def main() -> None:
    """Read JSON files, write README.md and figures/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    readme = FOLDER / "README.md"
    text = readme.read_text(encoding="utf-8")
    for path in parser.parse_args().files:
        data = json.loads(path.read_text(encoding="utf-8"))
        try:
            found = blocks(data)
        except ValueError as error:
            print(f"{path} left out: {error}", file=sys.stderr)
            continue
        for name, block in found.items():
            text = insert(text, name, block)
        if data["kind"] in ALT_TEXTS:
            (FOLDER / "figures").mkdir(exist_ok=True)
            (FOLDER / "figures" / f"{data['kind']}.png").write_bytes(plot(data))
        print(f"{path}: {', '.join(found)}")
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
