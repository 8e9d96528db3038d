"""From measured figures to Markdown: what is printed and what stands in the README are the same lines."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

BASELINE = "hf-static"
GOALS = {"W1": (1.6, 1.9), "W2": (2.0, 3.1), "W3": (6.0, 7.0), "W4": (1.6, 1.8)}
"""The least that is asked for and the aim, as ratios of our tokens a second to HuggingFace's static batch."""
READY_GOAL = (1.0, 0.7)
"""The most that is allowed and the aim, as ratios of our seconds to HuggingFace's."""


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """Return "median (minimum-maximum)"; a single value stands alone."""
    middle = format(statistics.median(values), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}}-{max(values):{form}})"


def ratio(values: Sequence[float], baseline: Sequence[float]) -> float:
    """Return the ratio of the medians."""
    return statistics.median(values) / statistics.median(baseline)


def settings_line(data: dict[str, Any]) -> str:
    """Say under what conditions the figures were taken."""
    given = data["settings"]
    quick = "**The quick run: short outputs, one round; not for comparison.** " if given.get("quick") else ""
    parts = [
        f"{given['processor']}, {given['threads']} threads",
        f"OMP_WAIT_POLICY {given['omp_wait_policy']}",
        f"Python {given['python']}",
        *(f"{name} {version}" for name, version in given["versions"].items()),
        f"medians of {given['rounds']} interleaved rounds (minimum-maximum)",
    ]
    return f"{quick}{'; '.join(parts)}."


def speed_table(data: dict[str, Any]) -> str:
    """Tokens a second: an engine a row, a workload a column; how long until ready, and the peak memory."""
    speeds = data["tokens_per_second"]
    engines = list(data["peak_gib"])
    header = ["tokens/s", *speeds, "ready after, s", "loading, s", "peak memory, GiB"]
    rows = []
    for engine in engines:
        cells = [_speed_cell(by_engine, engine) for by_engine in speeds.values()]
        ready = spread(data["ready_seconds"][engine])
        rows.append([engine, *cells, ready, f"{data['load_seconds'][engine]:.1f}", f"{data['peak_gib'][engine]:.2f}"])
    return markdown(header, rows)


def _speed_cell(by_engine: dict[str, list[float]], engine: str) -> str:
    cell = spread(by_engine[engine])
    if engine == BASELINE or BASELINE not in by_engine:
        return cell
    return f"{cell}, **{ratio(by_engine[engine], by_engine[BASELINE]):.2f} x**"


def first_token_table(data: dict[str, Any]) -> str:
    """Milliseconds that half of the prompts waited at most for their first token."""
    waits = data["first_token_seconds"]
    rows = [
        [
            engine,
            *(spread([1000 * s for s in waits[name][engine]], ".0f") if waits[name][engine] else "-" for name in waits),
        ]
        for engine in data["peak_gib"]
    ]
    return markdown(["first token, ms", *waits], rows)


def goals_table(data: dict[str, Any]) -> str:
    """This project's ratios beside what is asked for. Empty unless both sides were measured."""
    rows = []
    for name, (least, aim) in GOALS.items():
        by_engine = data["tokens_per_second"].get(name, {})
        if {"folovllm", BASELINE} <= by_engine.keys():
            ours = ratio(by_engine["folovllm"], by_engine[BASELINE])
            rows.append([f"{name}, tokens/s", f"{ours:.2f} x", f"{least} x", f"{aim} x", _verdict(ours, least, aim)])
    mixed = data["sampler"].get("model, all")
    if mixed:
        ours = min(statistics.median(mixed["hf batched"]), statistics.median(mixed["hf by row"]))
        ours /= statistics.median(mixed["ours"])
        rows.append(["W5, all filters", f"{ours:.1f} x", "3.0 x", "5.0 x", _verdict(ours, 3, 5)])
    ready = data["ready_seconds"]
    if {"folovllm", BASELINE} <= ready.keys():
        ours = ratio(ready["folovllm"], ready[BASELINE])
        least, aim = READY_GOAL
        rows.append(["ready, time", f"{ours:.2f} x", f"{least} x", f"{aim} x", _verdict(-ours, -least, -aim)])
    return markdown(["folovllm / hf-static", "measured", "at least", "the aim", ""], rows) if rows else ""


def _verdict(value: float, least: float, aim: float) -> str:
    return "aim reached" if value >= aim else "reached" if value >= least else "short"


def roofline_table(data: dict[str, Any]) -> str:
    """What the machine allows, and how near the engines come with one stream."""
    bounds = {name: max(round_[name] for round_ in data["roofline"]) for name in data["roofline"][0]}
    rows = [
        [f"weights read, GB/s ({bounds['gigabytes']:.2f} GB a token)", f"{bounds['gigabytes_per_second']:.1f}"],
        [
            "bound of one stream: all weights once a token (matrix-vector products), tokens/s",
            f"{bounds['one_stream']:.1f}",
        ],
        ["linear layers alone, 1 row, tokens/s", f"{bounds['linear_1']:.1f}"],
        ["linear layers alone, 32 rows, tokens/s", f"{bounds['linear_32']:.1f}"],
    ]
    for engine, speeds in data["tokens_per_second"].get("W1", {}).items():
        rows.append([f"W1, {engine}, of the bound", f"{statistics.median(speeds) / bounds['one_stream']:.0%}"])
    return markdown(["roofline", "measured"], rows)


def sampler_table(results: dict[str, dict[str, list[float]]]) -> str:
    """W5: milliseconds by way to sample, and the ratio of HuggingFace's faster way to ours."""
    ways = list(next(iter(results.values())))
    rows = []
    for case, times in results.items():
        medians = {way: statistics.median(each) for way, each in times.items()}
        factor = min(medians["hf batched"], medians["hf by row"]) / medians["ours"]
        rows.append([case, *(spread(each) for each in times.values()), f"{factor:.1f} x"])
    return markdown(["W5, ms", *ways, "faster hf / ours"], rows)


def slopes(points: dict[str, float]) -> tuple[float, float]:
    """Return the slope on log-log axes: least squares over all points, and the steepest between two neighbours.

    1 is linear. Costs with a constant part are flat at first, so the second figure is the stricter one.
    """
    import numpy as np

    x, y = np.log([float(each) for each in points]), np.log(list(points.values()))
    return float(np.polyfit(x, y, 1)[0]), float((np.diff(y) / np.diff(x)).max())


def growth_table(part: dict[str, Any]) -> str:
    """One table of ``growth.py``: a size a column, a cost a row, and how fast each grows."""
    sizes = list(next(iter(part["costs"].values())))
    rows = []
    for name, points in part["costs"].items():
        fitted, steepest = slopes(points)
        rows.append([name, *(f"{points[size]:.3g}" for size in sizes), f"{fitted:.2f}", f"{steepest:.2f}"])
    return markdown([part["title"], *sizes, "slope", "steepest"], rows)


def waits_table(data: dict[str, Any]) -> str:
    """What a learner waits for, in seconds."""
    return markdown(
        ["seconds", "median (minimum-maximum)"], [[name, spread(v, ".2f")] for name, v in data["seconds"].items()]
    )


def imports_table(data: dict[str, Any]) -> str:
    """Where the time of an import goes, by package."""
    rows = [[name, f"{1000 * seconds:.0f}"] for name, seconds in data["imports"].items()]
    return markdown([f"`{data['import_statement']}`, package by package", "ms of its own"], rows)
