"""What the book says around the chapters, in each language."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from folovllm.language import LANGUAGES, _, current_language, use_language

T = TypeVar("T")


@dataclass(frozen=True)
class Words:
    """One language's words. A field that ends with a blank or a colon stands before what it names."""

    run_here: str
    on_this_computer: str
    code: str
    minutes: str
    tagline: str
    introduction: str
    try_it: str
    try_text: str
    chapters: str
    chapters_after: str
    run_title: str
    run_text: str
    run_elsewhere: str
    reference: str
    contents: str


ENGLISH = Words(
    run_here="Run this chapter:",
    on_this_computer="on your computer",
    code="Its code:",
    minutes="minutes",
    tagline="How an LLM inference engine works, in eight notebooks and a small real engine.",
    introduction=(
        "You run **Lantern**, a small chat service of a town library. Every chapter begins with its trouble of the "
        "day, and ends with it solved in the numbers of a real engine. Its names are those of "
        "[vLLM](https://github.com/vllm-project/vllm): what you learn here, you will recognise there. Every output in "
        "this book was written by that engine, on a laptop's CPU."
    ),
    try_it="Try it here",
    try_text=(
        "The model has read a prompt. Which token comes next? Move the settings: every number was computed by the "
        "engine when this page was built. [Chapter 02](02_sampling.ipynb) explains them."
    ),
    chapters="The chapters",
    chapters_after="After it you can:",
    run_title="Run the course",
    run_text=(
        "A page of this book shows what the engine answered. To change the code, to solve the exercises and to ask the "
        "model what you like, run the course. You need Linux or macOS (on Windows: WSL), Python 3.11 or newer, `make`, "
        "and 3 GiB of disk. `make lab` installs what it needs into the course's own folder, prepares the model, and "
        "opens JupyterLab."
    ),
    run_elsewhere="Without an installation:",
    reference="API reference",
    contents="Contents",
)
CHINESE = Words(
    run_here="运行本章：",
    on_this_computer="在你的电脑上",
    code="本章的代码：",
    minutes="分钟",
    tagline="大模型推理引擎是怎样工作的：八个笔记本，一个小而真实的引擎。",
    introduction=(
        "你在运营**灯笼（Lantern）**：一家小镇图书馆的聊天服务。每一章从当天的一个麻烦开始，用真实引擎给出的数字把它解决。"
        "这里的名字就是 [vLLM](https://github.com/vllm-project/vllm) 的名字：在这里学到的，在那里都认得出来。"
        "书中的每一个输出都由这个引擎写出，运行在一台笔记本电脑的 CPU 上。"
    ),
    try_it="在这里试一试",
    try_text=(
        "模型读完了一段提示词，下一个词元会是什么？动一动这些参数：每一个数字都由引擎在构建本页时算出。"
        "[第 02 章](02_sampling.ipynb)讲解它们。"
    ),
    chapters="各章",
    chapters_after="学完之后，你能：",
    run_title="运行课程",
    run_text=(
        "书页上显示的是引擎当时的回答。想修改代码、做练习、向模型提自己的问题，就把课程运行起来。"
        "需要 Linux 或 macOS（Windows 上用 WSL）、Python 3.11 或更新的版本、`make`，以及 3 GiB 磁盘空间。"
        "`make lab` 把所需的包装进课程自己的文件夹，准备好模型，并打开 JupyterLab。"
    ),
    run_elsewhere="不用安装：",
    reference="API 参考",
    contents="目录",
)


def translated(messages: Iterable[str]) -> dict[str, str]:
    """Return sentences of the course's own catalog, by their English, in the current language."""
    return {each: _(each) for each in messages}


def in_every_language(say: Callable[[], T]) -> dict[str, T]:
    """Return what is said in each language."""
    before, said = current_language(), {}
    for language in LANGUAGES:
        use_language(language)
        said[language] = say()
    use_language(before)
    return said
