"""A widget: go through the steps of a recorded run; statuses, block tables and reference counts of each."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from folovllm.course.record import PHASES, phase_of, recorded
from folovllm.course.style import BLUE, GREEN, GREY, LivePicture, new_figure, show
from folovllm.course.widgets.widget import PictureWidget, slider_with_box
from folovllm.engine.history import SequenceRecord, StepRecord
from folovllm.llm import LLM
from folovllm.request import SequenceStatus

_LOOKS = PHASES | {"waiting": ("white", ""), "swapped": (GREY, "xxx"), "stands still": ("#dddddd", "")}
_BLOCKS_A_ROW = 8


def activity(record: SequenceRecord) -> str | None:
    """Return what a sequence did in a step, a key of the legend; None once it has ended."""
    phase = phase_of(record)
    if phase is not None:
        return phase
    if record.status.is_finished():
        return None
    return "stands still" if record.status == SequenceStatus.RUNNING else str(record.status)


def draw_timeline(axes: Axes, steps: Sequence[StepRecord]) -> list[str]:
    """Draw one row a sequence and one column a step; return the sequences' names, from the top."""
    names = list(dict.fromkeys(seq.seq_id for step in steps for seq in step.sequences))
    for step in steps:
        for seq in step.sequences:
            done = activity(seq)
            if done is not None:
                color, hatch = _LOOKS[done]
                look: dict[str, Any] = {
                    "facecolor": color,
                    "hatch": hatch,
                    "edgecolor": "#555555" if done == "waiting" else "white",
                }
                axes.add_patch(Rectangle((step.step - 0.46, names.index(seq.seq_id) - 0.4), 0.92, 0.8, **look))
    axes.set(xlim=(-0.7, len(steps) - 0.3), ylim=(len(names) - 0.4, -0.6), xlabel="step", ylabel="sequence")
    axes.set_yticks(range(len(names)), names, family="monospace")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return names


def legend_of(steps: Sequence[StepRecord]) -> list[Patch]:
    """Return an entry for everything that happens in these steps."""
    seen = {activity(seq) for step in steps for seq in step.sequences}
    return [
        Patch(facecolor=color, hatch=hatch, edgecolor="#555555" if name == "waiting" else "white", label=name)
        for name, (color, hatch) in _LOOKS.items()
        if name in seen
    ]


def plot_timeline(llm: LLM) -> Image:
    """Show what every sequence did in every step that an engine recorded."""
    steps = recorded(llm)
    count = len({seq.seq_id for step in steps for seq in step.sequences})
    figure, axes = new_figure(10, 1.5 + 0.34 * count)
    names = draw_timeline(axes, steps)
    figure.legend(handles=legend_of(steps), loc="outside upper center", ncols=5, fontsize=10, frameon=False)
    told = "; ".join(sentence(step) for step in (steps[0], steps[-1]))
    alt = f"What {len(names)} sequences did in {len(steps)} steps. First and last: {told}."
    return show(figure, alt)


def sentence(step: StepRecord) -> str:
    """Say in one line how a step ended."""
    counts = Counter(str(seq.status) for seq in step.sequences)
    statuses = ", ".join(f"{count} {status}" for status, count in counts.items())
    held = {block for seq in step.sequences if _on_device(seq) for block in seq.block_table}
    shared = {block for seq in step.sequences if _on_device(seq) for block, refs in _refs(seq) if refs > 1}
    return (
        f"step {step.step}: {step.num_batched_tokens} tokens; {statuses}; {len(held)} blocks held, "
        f"{len(shared)} of them shared, {step.num_free_blocks} free"
    )


class TimelinePicture(LivePicture):
    """The timeline with a cursor, and the blocks at the cursor's step: who holds each, or how many share it."""

    def __init__(self, steps: Sequence[StepRecord]) -> None:
        tables = [seq.block_table for step in steps for seq in step.sequences if _on_device(seq)]
        self._places = {block: i for i, block in enumerate(sorted({block for table in tables for block in table}))}
        count = len({seq.seq_id for step in steps for seq in step.sequences})
        figure, (line, pool) = new_figure(10, max(3.6, 1.5 + 0.34 * count), ncols=2, width_ratios=(3, 2))
        self._names = draw_timeline(line, steps)
        figure.legend(handles=legend_of(steps), loc="outside lower center", ncols=5, fontsize=10, frameon=False)
        cursor = Rectangle((0, -0.6), 1, len(self._names) + 0.2, fill=False, edgecolor="black", linewidth=2)
        self._cursor = line.add_patch(cursor)
        cells = [(i % _BLOCKS_A_ROW, i // _BLOCKS_A_ROW) for i in range(len(self._places))]
        self._blocks = [pool.add_patch(Rectangle((x - 0.46, y - 0.42), 0.92, 0.84)) for x, y in cells]
        centred = {"ha": "center", "va": "center", "fontsize": 9}
        self._labels = [pool.text(x, y, "", **centred) for x, y in cells]
        rows = max(1, -(-len(cells) // _BLOCKS_A_ROW))
        pool.set(xlim=(-0.6, _BLOCKS_A_ROW - 0.4), ylim=(max(rows, 4) - 0.4, -0.6), xticks=[], yticks=[])
        pool.set_title("KV blocks: holder, or ×n where n share")
        pool.spines[["left", "bottom"]].set_visible(False)
        self._sentence = figure.suptitle(" ", fontsize=12, fontweight="bold")
        super().__init__(figure, [self._cursor, *self._blocks, *self._labels, self._sentence])
        self.keep_background()

    def update(self, step: StepRecord) -> bytes:
        """Show one step; return the picture as PNG."""
        self._cursor.set_x(step.step - 0.5)
        holders: dict[int, tuple[str, int]] = {}
        for seq in filter(_on_device, step.sequences):
            holders |= {block: (seq.seq_id, refs) for block, refs in _refs(seq)}
        for block, place in self._places.items():
            name, refs = holders.get(block, ("", 0))
            look = {0: ("white", "#999999"), 1: (BLUE, "white")}.get(refs, (GREEN, "white"))
            self._blocks[place].set(facecolor=look[0], edgecolor=look[1], hatch="" if refs < 2 else "\\\\\\")
            self._labels[place].set(text=f"×{refs}" if refs > 1 else name, color="black" if refs != 1 else "white")
            self._labels[place].set_bbox({"facecolor": "white", "pad": 1, "linewidth": 0} if refs > 1 else None)
        self._sentence.set_text(sentence(step))
        return self.redraw()


class Timeline(PictureWidget):
    """Scrub through the steps of a run that ``llm`` recorded (``record_history=True``)."""

    def __init__(self, llm: LLM, *, step: int = 0) -> None:
        self.steps = list(recorded(llm))
        if not self.steps:
            raise ValueError("this LLM has recorded no step yet: generate something first")
        self._picture = TimelinePicture(self.steps)
        row = slider_with_box("step", min(step, len(self.steps) - 1), 0, len(self.steps) - 1, 1)
        self.step = row.children[-1]
        self.step.observe(lambda _: self.refresh(), "value")
        super().__init__([row])
        self.refresh()

    def refresh(self) -> None:
        """Show the chosen step."""
        step = self.steps[self.step.value]
        self.show(sentence(step), self._picture.update(step))

    def summary(self) -> str:
        """Say what the step did, and list every sequence with its blocks and how many hold each."""
        step = self.steps[self.step.value]
        lines = [f"Timeline, {sentence(step)}"]
        for seq in step.sequences:
            blocks = " ".join(f"{block}(×{refs})" if refs > 1 else str(block) for block, refs in _refs(seq))
            where = "" if _on_device(seq) else " on the host"
            lines.append(f"{seq.seq_id:6} {seq.status:22} {seq.num_output_tokens:3} tokens  blocks{where} {blocks}")
        return "\n".join(lines)


def _on_device(seq: SequenceRecord) -> bool:
    return seq.status != SequenceStatus.SWAPPED


def _refs(seq: SequenceRecord) -> list[tuple[int, int]]:
    return list(zip(seq.block_table, seq.ref_counts, strict=True))
