"""From measured figures to Markdown: what is printed and what stands in the README are the same lines."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

BASELINE = "hf-static"
GOALS: list[tuple[str, str, float | None, float | None]] = [
    ("W1", "folovllm-before", 1.15, None),
    ("W1", "vllm", 1.0, None),
    ("W1", "llama-cpp", None, 1.0),
    ("W2", "vllm", 1.0, 1.25),
    ("W3", "vllm", 1.1, 1.5),
    ("W4", "vllm", 1.8, 2.3),
    ("W4", "folovllm-before", 1.5, None),
]
"""A workload, whom we are compared with, the least that is asked for and the aim: ratios of our tokens a second."""
ROOFLINE_GOAL = 0.9
"""The aim for one text, as a share of the roofline."""
READY_GOAL = ("hf-static", 1.0, 0.8)
"""Whose time until ready ours is compared with, the most that is allowed and the aim."""
MEMORY_GOAL = ("folovllm-before", 1.0)
"""Whose peak memory ours is compared with, and the most that is allowed."""


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
        *([] if given.get("load") is None else [f"load of others {given['load']:.1f}"]),
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
    """This project's ratios beside what is asked for: a row for every goal of which both sides were measured."""
    rows = []
    for workload, peer, least, aim in GOALS:
        speeds = data["tokens_per_second"].get(workload, {})
        if {"folovllm", peer} <= speeds.keys():
            ours = ratio(speeds["folovllm"], speeds[peer])
            rows.append([f"{workload}, tokens/s / {peer}", *_judge(ours, least, aim)])
    if speeds := data["tokens_per_second"].get("W1", {}).get("folovllm"):
        ours = statistics.median(speeds) / max(each["one_stream"] for each in data["roofline"])
        rows.append(["W1, tokens/s / roofline", *_judge(ours, None, ROOFLINE_GOAL)])
    peer, most, aim = READY_GOAL
    ready = data["ready_seconds"]
    if {"folovllm", peer} <= ready.keys():
        ours = ratio(ready["folovllm"], ready[peer])
        rows.append([f"ready, time / {peer}", *_judge(ours, most, aim, smaller_is_better=True)])
    peer, most = MEMORY_GOAL
    if {"folovllm", peer} <= data["peak_gib"].keys():
        ours = data["peak_gib"]["folovllm"] / data["peak_gib"][peer]
        rows.append([f"peak memory / {peer}", *_judge(ours, most, None, smaller_is_better=True)])
    return markdown(["folovllm /", "measured", "at least", "the aim", ""], rows) if rows else ""


def _judge(value: float, least: float | None, aim: float | None, smaller_is_better: bool = False) -> list[str]:
    """Return the cells of a goal: the ratio, the least and the aim (or the most and the aim), and the verdict."""
    sign = -1 if smaller_is_better else 1
    reached, aim_reached = (goal is not None and sign * value >= sign * goal for goal in (least, aim))
    missed = "short" if least is not None else "short of the aim"
    cells = ["-" if goal is None else f"{goal} x" for goal in (least, aim)]
    return [f"{value:.2f} x", *cells, "aim reached" if aim_reached else "reached" if reached else missed]


def roofline_table(data: dict[str, Any]) -> str:
    """What the machine allows, and how near the engines come with one stream."""
    bounds = {name: max(round_[name] for round_ in data["roofline"]) for name in data["roofline"][0]}
    rows = [
        [f"weights read, GB/s ({bounds['gigabytes']:.2f} GB a token)", f"{bounds['gigabytes_per_second']:.1f}"],
        [
            "bound of one stream: all weights once a token, the quickest way to read them, tokens/s",
            f"{bounds['one_stream']:.1f}",
        ],
        *(
            [f"linear layers alone, {rows}, {way}, tokens/s", f"{bounds[f'{key}_{number}']:.1f}"]
            for number, rows in ((1, "1 row"), (32, "32 rows"))
            for key, way in (("linear", "PyTorch"), ("kernel", "kernel"))
        ),
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
