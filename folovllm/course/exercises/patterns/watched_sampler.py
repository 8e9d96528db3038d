"""A learner's sampler, each of whose answers is compared with the reference's."""

from collections.abc import Callable

import torch
from torch import Tensor

from folovllm.course.exercises.patterns.strategies import ROUNDING, epsilon_solution
from folovllm.course.exercises.time_limit import SECONDS, TimeIsUp, call_in_time
from folovllm.language import N_, _
from folovllm.sampling.logits_processors import check_result
from folovllm.sampling.sampler import Sampler
from folovllm.sampling_params import SamplingParams

_Guess = Callable[[Tensor], Tensor]
"""From the epsilons of a step's rows to those that a wrong sampler uses."""
_GUESSES: dict[str, _Guess] = {
    N_("your sampler uses the first request's epsilon for all; each row has its own"): (
        lambda epsilons: epsilons[:1].expand_as(epsilons)
    ),
    N_("your sampler uses the largest epsilon of the batch for all; each row has its own"): (
        lambda epsilons: epsilons.max().expand_as(epsilons)
    ),
    N_("your sampler drops nothing; does it read the epsilons, and call my_epsilon?"): (
        lambda epsilons: torch.zeros_like(epsilons)
    ),
    N_("your sampler drops nothing in a batch in which one request has no epsilon; each row has its own"): (
        lambda epsilons: epsilons * (epsilons > 0).all()
    ),
}


def refine_in_time(sampler: Sampler, logits: Tensor, params: list[SamplingParams]) -> Tensor:
    """Return what a learner's ``refine`` makes of a copy; TimeIsUp, or a ValueError if that is no such logits."""
    return check_result("Sampler.refine", call_in_time(SECONDS, sampler.refine, logits.clone(), params), logits)


class WatchedSampler(Sampler):
    """Calls a learner's ``refine``, and compares each of its answers with the reference's to the same question.

    ``found_in`` says in which batch a fault is found, as "... {found}"; it may change between two batches.
    """

    def __init__(self, own: Sampler) -> None:
        super().__init__()
        self.own = own
        self.problem = ""
        self.found_in = "{found}"
        self.least: dict[float, float] = {}
        self.late: TimeIsUp | None = None
        self._guesses = dict(_GUESSES)

    def refine(self, logits: Tensor, params: list[SamplingParams]) -> Tensor:
        """Return what the learner's sampler makes of the logits."""
        if self.late is not None:  # the engine asks again, for other requests
            raise self.late
        try:
            given = refine_in_time(self.own, logits, list(params))
        except TimeIsUp as late:
            self.late = late
            raise
        self._compare(logits, [getattr(each, "epsilon", 0.0) for each in params], given)
        return given

    @property
    def verdict(self) -> str:
        """What is wrong in all steps together; "" if nothing."""
        if not self.problem:
            return ""
        return next(map(_, self._guesses), self.problem)

    def _compare(self, logits: Tensor, asked: list[float], given: Tensor) -> None:
        epsilons = torch.tensor(asked, device=logits.device)
        right = epsilon_solution(logits, epsilons)
        self._guesses = {
            title: guess
            for title, guess in self._guesses.items()
            if torch.equal(given, epsilon_solution(logits, guess(epsilons)))
        }
        if not self.problem:
            found = _problem_of_a_step(logits, epsilons, given, right)
            self.problem = found and _(self.found_in).format(found=found)
        probs = logits.softmax(dim=-1)
        for row, epsilon in enumerate(asked):
            kept = probs[row][given[row] > -torch.inf]
            if len(kept) > 1:
                self.least[epsilon] = min(self.least.get(epsilon, 1.0), float(kept.min()))


def _problem_of_a_step(logits: Tensor, epsilons: Tensor, given: Tensor, right: Tensor) -> str:
    """Say what is wrong with the logits that a sampler returned in one step; "" if nothing.

    A token within rounding of its epsilon may stay or go.
    """
    probs = logits.softmax(dim=-1)
    decided = ((probs - epsilons[:, None]).abs() > ROUNDING * epsilons[:, None]) | (epsilons == 0)[:, None]
    is_kept, should_stay = given > -torch.inf, right > -torch.inf
    is_same = torch.allclose(given[is_kept], logits[is_kept])
    sums = given.masked_fill(~is_kept, 0.0).sum(dim=-1)
    if not is_same and (given[is_kept] >= 0).all() and (sums < 1.001).all():
        return _("you return probabilities; refine must return logits, with -inf for what is dropped")
    wrongly_kept = is_kept & ~should_stay & decided
    if wrongly_kept.any():
        row, token = wrongly_kept.nonzero()[0].tolist()
        if not torch.isclose(given[row, token], logits[row, token], rtol=0.01):  # and not merely rounded
            return _("a dropped token gets the logit {logit:.2g}; only -inf is never drawn").format(
                logit=given[row, token]
            )
        worst = probs[row][wrongly_kept[row]].min()
        told = _("with epsilon={epsilon} a token of probability {worst} is kept")
        epsilon_told, worst_told = _told_apart(float(epsilons[row]), float(worst))
        return told.format(epsilon=epsilon_told, worst=worst_told)
    wrongly_dropped = ~is_kept & should_stay & decided
    if wrongly_dropped.any():
        row = int(wrongly_dropped.nonzero()[0, 0])
        best = probs[row][wrongly_dropped[row]].max()
        if epsilons[row] == 0:
            return _("a request that does not ask for epsilon loses a token of probability {best:.2g}").format(
                best=best
            )
        told = _("with epsilon={epsilon} a token of probability {best} is dropped; is that too much?")
        epsilon_told, best_told = _told_apart(float(epsilons[row]), float(best))
        return told.format(epsilon=epsilon_told, best=best_told)
    if not is_same:
        return _("the logits of kept tokens are changed; they stay as they are, and only dropped ones become -inf")
    return ""


def _told_apart(epsilon: float, probability: float) -> tuple[str, str]:
    """Return both with two digits, or as many as they need to differ."""
    return next(told for n in range(2, 18) if (told := (f"{epsilon:.{n}g}", f"{probability:.{n}g}"))[0] != told[1])
