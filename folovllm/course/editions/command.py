"""The command ``folovllm course``: what learners, instructors and translators do with whole notebooks.

What a part needs is imported when it runs, so that the command line starts at once.
"""

import argparse
from pathlib import Path

from folovllm.course_folder import find_notebooks
from folovllm.language import _


def add_course(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command ``course`` with all its parts."""
    course = commands.add_parser("course", help=_("progress; the instructor's edition; slides; a fresh notebook"))
    add_notebooks(course)
    parts = course.add_subparsers(required=True, metavar="PART")
    instructor = parts.add_parser("instructor", help=_("write the notebooks with solutions and notes"))
    instructor.add_argument("--output", type=Path, required=True, metavar="DIR")
    instructor.set_defaults(run=_instructor)
    slides = parts.add_parser("slides", help=_("write slides of the notebooks, with notes for the speaker"))
    slides.add_argument("--output", type=Path, required=True, metavar="DIR")
    slides.set_defaults(run=_slides)
    progress = parts.add_parser("progress", help=_("say which exercises pass in the notebooks as they are saved"))
    progress.set_defaults(run=_progress)
    collect = parts.add_parser("collect", help=_("judge a folder of notebooks that learners handed in"))
    collect.add_argument("folder", type=Path, metavar="FOLDER")
    for form in ("csv", "json", "junit"):
        collect.add_argument(
            f"--{form}",
            type=Path,
            metavar="FILE",
            help=_("write the results as {form}, too").format(form=form.upper()),
        )
    collect.add_argument("--seconds", type=float, default=30.0, help=_("most per answer (default: %(default)s)"))
    collect.set_defaults(run=_collect)
    reset = parts.add_parser("reset", help=_("restore a notebook; yours goes to the folder backups"))
    reset.add_argument("chapter", help=_("as the notebook's name begins: 02, 04b"))
    reset.add_argument("--revision", default="HEAD", help=_("the commit with the original (default: %(default)s)"))
    reset.add_argument("--keep-answers", action="store_true", help=_("put your code into the original, cell by cell"))
    reset.set_defaults(run=_reset)
    translate = parts.add_parser("translate", help=_("bring the Chinese notebooks and catalogs up to date"))
    translate.set_defaults(run=_translate)
    same = parts.add_parser("update", help=_("as folovllm update"))
    same.set_defaults(run=update)


def add_notebooks(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where the notebooks are."""
    default = find_notebooks()
    parser.add_argument(
        "--notebooks", type=Path, default=default, metavar="DIR", help=_("their folder (default here: %(default)s)")
    )


def _instructor(options: argparse.Namespace) -> int:
    from folovllm.course.editions.instructor import write_edition

    for path in write_edition(options.notebooks, options.output):
        print(path)
    return 0


def _slides(options: argparse.Namespace) -> int:
    from folovllm.course.editions.slides import write_slides

    for path in write_slides(options.notebooks, options.output):
        print(path)
    return 0


def _progress(options: argparse.Namespace) -> int:
    from folovllm.course.editions.progress import STATES, judge_chapters

    for path, results in judge_chapters(options.notebooks):
        right = sum(result.state == "right" for result in results)
        print(
            _("{name}: {right} of {num_results} exercises are right").format(
                name=path.name, right=right, num_results=len(results)
            ),
            flush=True,
        )
        for result in results:
            told = _(STATES[result.state])
            print(f"  {result.exercise:16} {told}" + ("" if result.state == "right" else f": {result.verdict}"))
    return 0


def _collect(options: argparse.Namespace) -> int:
    from folovllm.course.editions import collect

    submissions = []
    for submission in collect.collect(options.folder, options.seconds):
        print(collect.as_row(submission), flush=True)
        submissions.append(submission)
    print(_(collect.LEGEND))
    writers = {"csv": collect.write_csv, "json": collect.write_json, "junit": collect.write_junit}
    for form, write in writers.items():
        if path := getattr(options, form):
            write(submissions, path)
    return 0


def _reset(options: argparse.Namespace) -> int:
    from folovllm.course.editions.reset import reset_chapter

    print(reset_chapter(options.chapter, options.notebooks, options.revision, options.keep_answers))
    return 0


def update(options: argparse.Namespace) -> int:
    """Bring the newest notebooks."""
    from folovllm.course.editions.reset import update_notebooks

    print(update_notebooks(options.notebooks))
    return 0


def _translate(options: argparse.Namespace) -> int:
    from folovllm.course.editions.translate import LOCALE, translate_notebooks, translate_package, translate_site
    from folovllm.course.editions.translate_pages import translate_pages

    folder = options.notebooks.parent
    catalogs = folder / "translations" / LOCALE
    told = translate_notebooks(options.notebooks, catalogs) + translate_pages(folder, catalogs)
    print(*told, *translate_site(folder / "site", catalogs), translate_package(), sep="\n")
    return 0
