"""The instructors' timetables add up, and agree with what the notebooks say of themselves."""

import re
from pathlib import Path

import pytest

from tests.test_notebooks import NOTEBOOKS, cells, source

TEXT = Path("INSTRUCTORS.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\d):(\d\d) \| (\d+) \| (.*) \|$")
TABLES = [
    [ROW.match(line) for line in block.splitlines() if ROW.match(line)]
    for block in TEXT.split("| begins | minutes | what |")[1:]
]
MINUTES = {
    path.stem: int(re.search(r"^\| .* \| (\d+) \| offline", source(cells(path, "markdown")[0]), re.M)[1])
    for path in NOTEBOOKS
}


@pytest.mark.parametrize("table", TABLES, ids=["half a day", "a full day"])
def test_each_entry_begins_when_the_one_before_ends(table):
    clock = 0
    for row in table:
        assert 60 * int(row[1]) + int(row[2]) == clock
        clock += int(row[3])


def test_half_a_day_is_three_hours_and_a_full_day_has_every_notebook():
    assert sum(int(row[3]) for row in TABLES[0]) == 180
    named = re.findall(r"`(\d\db?_\w+)`", " ".join(row[4] for row in TABLES[1]))
    at_home = re.findall(r"`(\d\db?_\w+)`", re.search(r"For home: (.*);", TEXT)[1])
    assert sorted(named + at_home) == sorted(MINUTES)
    assert f"{sum(MINUTES.values())} minutes of material" in TEXT


@pytest.mark.parametrize("table", TABLES, ids=["half a day", "a full day"])
def test_a_notebook_gets_the_minutes_that_it_asks_for(table):
    for row in table:
        found = re.match(r"`(\d\db?_\w+)`", row[4])
        assert found is None or int(row[3]) == MINUTES[found[1]]


def test_every_command_that_is_named_exists():
    makefile = Path("Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([\w-]+)`", TEXT):
        assert re.search(rf"^{target}:", makefile, re.M)
