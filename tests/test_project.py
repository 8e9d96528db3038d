"""The files around the package agree with each other, and nothing is committed that should not be."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
SETUP_FILES = [
    "requirements.lock",
    "pyproject.toml",
    "environment.yml",
    "Makefile",
    ".ci/run",
    ".github/workflows/ci.yml",
    ".github/workflows/pages.yml",
    "scripts/make_venv.sh",
    "scripts/make_lock.sh",
    "scripts/make_kit.sh",
    "scripts/ensure_hub_proxy.sh",
    "postBuild",
    ".devcontainer/devcontainer.json",
]


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def locked() -> dict[str, Requirement]:
    return {normalized(pin.name): pin for pin in map(Requirement, LOCK)}


@cache
def committed() -> list[Path]:
    """All files of the repository: those that git has, and new ones that it does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted({ROOT / name for name in names if name and (ROOT / name).is_file()})


def texts() -> list[tuple[str, str]]:
    """Name and text of every committed file that is text."""
    pairs = [(path.relative_to(ROOT).as_posix(), path.read_bytes()) for path in committed()]
    return [(name, content.decode()) for name, content in pairs if b"\0" not in content]


@pytest.mark.parametrize("line", LOCK)
def test_the_lock_holds_exact_versions_and_nothing_else(line):
    assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*( ; sys_platform == '\w+')?", line)


def test_no_package_is_locked_twice():
    assert len(locked()) == len(LOCK)


def test_the_lock_leaves_cuda_to_pytorch():
    assert [name for name in locked() if name.startswith(("nvidia", "cuda", "triton"))] == []


@pytest.mark.parametrize("part", ["dependencies", *PROJECT["project"]["optional-dependencies"]])
def test_every_requirement_of_the_project_is_locked_within_its_range(part):
    project = PROJECT["project"]
    for wanted in map(Requirement, project.get(part) or project["optional-dependencies"][part]):
        pin = next(iter(locked()[normalized(wanted.name)].specifier)).version
        assert wanted.specifier.contains(pin), f"{wanted} is locked as {pin}"


def test_conda_installs_the_same_lock_as_make():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    [pip] = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]
    assert pip == ["-r requirements.lock", "-e ."]
    made_by_make = re.findall(r"^ *install (.*?)(?: \|\||$)", (ROOT / "scripts" / "make_venv.sh").read_text(), re.M)
    assert all("requirements.lock" in line for line in made_by_make)
    assert "-r requirements.lock" in made_by_make


def test_conda_brings_only_a_python_beside_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip = [part for part in environment["dependencies"] if isinstance(part, str)]
    assert pip == "pip"
    assert Requirement(f"python{PROJECT['project']['requires-python']}").specifier.contains(python.split("=")[1])


@pytest.mark.parametrize("name", SETUP_FILES)
def test_where_packages_come_from_is_left_to_the_users_own_settings(name):
    text = (ROOT / name).read_text()
    if name == "scripts/make_venv.sh":  # but for PyTorch without CUDA, which only PyTorch's own index has
        text = text.replace("https://download.pytorch.org/whl/cpu", "").replace("--index-url $cpu_index", "")
    assert "://" not in text
    assert re.search(r"--(extra-)?index-url|--find-links|--trusted-host", text) is None


def test_no_large_file_and_no_weights_are_committed():
    weights = {".safetensors", ".gguf", ".bin", ".pt", ".pth", ".whl", ".onnx"}
    assert [path.name for path in committed() if path.stat().st_size > 10**6 or path.suffix in weights] == []


def test_no_path_of_somebodys_machine_is_committed():
    place = re.compile(r"(?<![\w/.:~$}>-])/(?:home|Users|root|work|mnt|tmp/\w+|private/var)/[\w.-]+")
    found = [f"{name}: {match.group()}" for name, text in texts() for match in place.finditer(text)]
    assert found == []
    assert [name for name, text in texts() if str(ROOT) in text] == []


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_make_alone_lists_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(phony.group(1).split()) == make_targets()


def test_every_make_command_that_is_written_down_exists():
    named = {
        (name, target)
        for name, text in texts()
        if name.endswith((".md", ".py", ".ipynb", ".yml", ".sh")) or name == ".ci/run"
        for target in re.findall(r"(?:`|run: |^)make ((?!--)[a-z-]+)", text, re.MULTILINE)
    }
    assert ("README.md", "lab") in named
    assert [(name, target) for name, target in named if target not in make_targets()] == []


def test_every_relative_link_in_the_documents_leads_somewhere():
    for name, text in texts():
        if name.endswith(".md"):
            for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
                assert ((ROOT / name).parent / link).exists(), f"{name}: {link}"


def test_the_dev_container_runs_a_target_and_has_what_notebooks_need():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    make, target = container["updateContentCommand"].split()
    assert (make, target in make_targets()) == ("make", True)
    python = container["image"].rpartition(":")[2]
    assert Requirement(f"python{PROJECT['project']['requires-python']}").specifier.contains(python)
    editor = container["customizations"]["vscode"]
    assert {"ms-python.python", "ms-toolsai.jupyter"} <= set(editor["extensions"])
    assert editor["settings"]["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
    for name in container["customizations"]["codespaces"]["openFiles"]:
        assert (ROOT / name).is_file()


def test_only_the_standard_library_and_declared_packages_are_imported():
    declared = {normalized(Requirement(line).name) for line in PROJECT["project"]["dependencies"]}
    brought = {"huggingface-hub", "tokenizers", "packaging"}  # transformers is built on these
    optional = {
        normalized(Requirement(line).name) for line in PROJECT["project"]["optional-dependencies"]["structured"]
    }
    course = {"ipywidgets", "matplotlib", "pil", "ipython", "jupyter-core", "nbformat", "nbclient", "nbconvert"}
    course |= {"babel", "markdown-it"}  # of markdown-it-py
    for path in (ROOT / "folovllm").rglob("*.py"):
        relative = path.relative_to(ROOT / "folovllm").as_posix()
        allowed = declared | brought | (course if relative.startswith(("course/", "doctor.py", "lab.py")) else set())
        allowed |= optional if relative == "sampling/structured_outputs.py" else set()
        imported = {name.partition(".")[0] for name in _imports(path)} - {"folovllm", *sys.stdlib_module_names}
        assert {normalized(name) for name in imported} <= allowed, path


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


@pytest.mark.parametrize("module", ["folovllm", "folovllm.course", "folovllm.course.editions.reset"])
def test_importing_what_commands_need_is_cheap(module):
    command = f"import sys, {module}; print({{'torch', 'transformers', 'numpy', 'matplotlib'}} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout == "set()\n"


def test_the_version_is_the_same_everywhere():
    import folovllm

    assert folovllm.__version__ == PROJECT["project"]["version"]


def test_the_tab_key_offers_what_the_course_has_without_waiting_for_it_at_import():
    code = (
        "import sys, folovllm.course as course\n"
        "assert 'torch' not in sys.modules\n"
        "assert {'SamplingExplorer', 'check', 'predict'} <= set(dir(course))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
