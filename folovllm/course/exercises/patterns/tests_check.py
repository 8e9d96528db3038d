"""``check_tests``: do a learner's tests accept right strategies, and catch wrong ones?"""

import traceback
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from folovllm.course.exercises.exercise import NOT_ATTEMPTED
from folovllm.course.exercises.patterns import strategies
from folovllm.course.exercises.patterns.named_error import named
from folovllm.course.exercises.patterns.strategies import ROUNDING, Strategy, epsilon_solution
from folovllm.course.exercises.time_limit import SECONDS, TimeIsUp, call_in_time
from folovllm.language import N_, _


def _in_float64(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Epsilon sampling by another road: right as well, so that tests may not demand the reference's steps."""
    wide = logits.double()
    logprobs = wide - wide.logsumexp(dim=-1, keepdim=True)
    keeps = (logprobs >= epsilon.double().log()[:, None]) | (wide == wide.amax(dim=-1, keepdim=True))
    return torch.where(keeps, logits, -torch.inf)


def _keeps_ties(strategy: Strategy) -> Strategy:
    """Return a strategy that keeps a token whose probability is epsilon up to rounding.

    A token exactly at epsilon stays. Whether float32 finds it there depends on the logits, on the road to the
    probability and on the computer: a learner's test of it must not.
    """
    return lambda logits, epsilon: strategy(logits, epsilon * (1 - ROUNDING))


_RIGHT: tuple[Strategy, ...] = (_keeps_ties(epsilon_solution), _keeps_ties(_in_float64))
WRONG_STRATEGIES: dict[str, Strategy] = {
    N_("keeps every token"): strategies.keeps_everything,
    N_("sets dropped tokens to 0"): strategies.writes_zeros,
    N_("returns probabilities"): strategies.returns_probabilities,
    N_("compares the logit itself"): strategies.compares_logits,
    N_("compares exp(logit)"): strategies.does_not_normalise,
    N_("drops all where none reaches epsilon"): strategies.drops_them_all,
    N_("is min-p"): strategies.is_min_p,
    N_("uses the first row's epsilon for all"): strategies.has_one_epsilon,
    N_("keeps only the best of the whole batch"): strategies.keeps_the_best_of_the_batch,
    N_("runs the softmax over the batch"): strategies.takes_columns_for_rows,
    N_("rounds to two decimals"): strategies.rounds,
    N_("changes the caller's logits"): strategies.changes_its_argument,
    N_("keeps only the first of equally likely tokens"): strategies.keeps_the_first_of_equals,
    N_("drops a token exactly at epsilon"): strategies.drops_at_epsilon,
    N_("changes the logits of kept tokens"): strategies.returns_log_probabilities,
}
"""What a learner's tests must find out, by what each does."""


def check_tests(tests: Callable[[Strategy], Any]) -> None:
    """Run a learner's tests on right and on wrong strategies, and print which wrong ones slip through.

    tests: takes a strategy and raises, by ``assert``, if that is wrong.
    """
    print(_("your tests: {verdict}").format(verdict=_judge_tests(tests)))


def _judge_tests(tests: Callable[[Strategy], Any]) -> str:
    if problem := _problem_with_what_is_right(tests):
        return problem
    tried = {title: _try_tests(tests, strategy) for title, strategy in WRONG_STRATEGIES.items()}
    slipped = [title for title, (error, _value) in tried.items() if error is None]
    num_wrong = len(tried)
    if not slipped:  # tests that count how often they are called catch the later ones, whatever those do
        return _problem_with_what_is_right(tests) or _(
            "✔ they accept what is right and catch all {num_wrong} wrong strategies"
        ).format(num_wrong=num_wrong)
    returned = next((value for _error, value in tried.values() if value is not None), None)
    if len(slipped) == num_wrong and returned is not None:
        return _("not yet: they return {returned!r}, and nobody looks at that; does your test assert anything?").format(
            returned=returned
        )
    doubt = _(" Does your test assert anything?") if len(slipped) == num_wrong else ""
    told = "".join("\n    " + _("one that {title}").format(title=_(title)) for title in slipped)
    return _("they catch {caught} of {num_wrong} wrong strategies.{doubt} Slipped through:{told}").format(
        caught=num_wrong - len(slipped), num_wrong=num_wrong, doubt=doubt, told=told
    )


def _problem_with_what_is_right(tests: Callable[[Strategy], Any]) -> str:
    """Say what the tests have against a right strategy; "" if nothing."""
    for strategy in _RIGHT:
        error, _returned = _try_tests(tests, strategy)
        if isinstance(error, NotImplementedError):
            return _(NOT_ATTEMPTED)
        if error is not None:
            return _("not yet: they reject a strategy that is right, with {named}{line_of}").format(
                named=named(error), line_of=_line_of(error)
            )
    return ""


def _try_tests(tests: Callable[[Strategy], Any], strategy: Strategy) -> tuple[BaseException | None, Any]:
    """Return what the tests raise for a strategy, None if they are content, and what they return."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return None, call_in_time(SECONDS, tests, strategy)
    except (Exception, SystemExit, TimeIsUp) as error:
        return error, None


def _line_of(error: BaseException) -> str:
    """Say which line of a learner's tests an error went through last; "" if it came before the first one."""
    frames = traceback.extract_tb(error.__traceback__)[2:]
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return _(" in line {lineno}: {line}").format(lineno=own[-1].lineno, line=own[-1].line) if own else ""
