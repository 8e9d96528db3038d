"""What became of a class's exercises: a folder of notebooks that learners handed in, as a table and as files."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

from folovllm.course.editions.progress import SECONDS, Judge, Result, chapter_of
from folovllm.language import N_

_MARKS = {"right": "✔", "not yet": "✘", "not attempted": "·", "missing": "-", "failed": "!"}
LEGEND = N_("✔ right  ✘ not yet  · not attempted  - no such function  ! never ended, or ended the process")


@dataclass(frozen=True)
class Submission:
    """A learner's notebook, and what became of its exercises; problem: why the file could not be judged."""

    learner: str
    path: Path
    results: list[Result]
    problem: str = ""


def collect(folder: Path, seconds: float = SECONDS) -> Iterator[Submission]:
    """Judge every notebook below a folder, one after the other.

    A learner is the first folder on the way (``mei/02_sampling.ipynb``, ``mei/week1/...``: as nbgrader and Moodle
    make them), or what follows the chapter in a file's name (``02_sampling-mei.ipynb``).
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    paths = [path for path in sorted(folder.rglob("*.ipynb")) if not _is_a_copy(path.relative_to(folder))]
    if not paths:
        raise ValueError(f"there are no notebooks in {folder}")
    with Judge(seconds) as judge:
        for path in paths:
            learner, results, problem = _learner_of(path, folder), [], ""
            try:
                results = judge.judge(path)
            except (ValueError, OSError) as error:
                problem = str(error)
            yield Submission(learner, path.relative_to(folder), results, problem)


def _is_a_copy(path: Path) -> bool:
    """Return whether a file is kept beside a learner's work: a checkpoint, an original, a backup."""
    folders = path.parts[:-1]
    return any(name.startswith(".") for name in folders) or "backups" in folders[1:]


def _learner_of(path: Path, folder: Path) -> str:
    *folders, _ = path.relative_to(folder).parts
    if folders:
        return folders[0]
    try:
        return path.stem.removeprefix(chapter_of(path)).strip("-_. ") or "?"
    except ValueError:
        return path.stem


def as_row(submission: Submission) -> str:
    """Return one line for a terminal: who, which notebook, a mark per exercise."""
    marks = " ".join(f"{_MARKS[result.state]} {result.exercise}" for result in submission.results)
    return f"{submission.learner:20} {submission.path.name:28} {submission.problem or marks}"


def write_csv(submissions: Iterable[Submission], path: Path) -> None:
    """Write a row per learner and exercise."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # the mark by which spreadsheets know UTF-8
        writer = csv.writer(file)
        writer.writerow(["learner", "file", "chapter", "exercise", "state", "verdict"])
        for each in submissions:
            if each.problem:
                writer.writerow([each.learner, each.path, "", "", "failed", each.problem])
            for result in each.results:
                writer.writerow([each.learner, each.path, *asdict(result).values()])


def write_json(submissions: Iterable[Submission], path: Path) -> None:
    """Write everything as a list of objects."""
    objects = [asdict(each) | {"path": each.path.as_posix()} for each in submissions]
    path.write_text(json.dumps(objects, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_junit(submissions: Iterable[Submission], path: Path) -> None:
    """Write a JUnit report, which CI servers show: a suite per notebook, a case per exercise."""
    root = ElementTree.Element("testsuites")
    for each in submissions:
        suite = ElementTree.SubElement(root, "testsuite", name=f"{each.learner}/{each.path.as_posix()}")
        if each.problem:
            case = ElementTree.SubElement(suite, "testcase", classname=each.learner, name=each.path.name)
            ElementTree.SubElement(case, "error", message=each.problem)
        for result in each.results:
            name = f"{each.learner}.{result.chapter}"
            case = ElementTree.SubElement(suite, "testcase", classname=name, name=result.exercise)
            if result.state == "not attempted":
                ElementTree.SubElement(case, "skipped", message=result.verdict)
            elif result.state != "right":
                ElementTree.SubElement(case, "failure", message=result.verdict)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
