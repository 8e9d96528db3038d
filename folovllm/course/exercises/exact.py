"""A complaint of exercises in which numbers are copied, not computed: they must be the same to the last bit."""

from torch import Tensor

from folovllm.course.exercises.outcome import Outcome, same
from folovllm.language import _


def nearly_copied(outcome: Outcome, right: Tensor) -> str:
    """Complain of numbers that are those which are right within the judge's tolerance, and not exactly."""
    if not isinstance(outcome.value, Tensor) or not same(outcome.value, right):
        return ""
    given, wanted = (each.detach().double().flatten() for each in (outcome.value, right))
    place = ((given != wanted) & ~(given.isnan() & wanted.isnan())).nonzero().flatten().tolist()
    said = _("almost: numbers that stay must be copied as they are; yours has {given!r} in place of {right!r}")
    return said.format(given=given[place[0]].item(), right=wanted[place[0]].item()) if place else ""
