"""Answers that ``check`` must reject, a file per chapter: what learners wrote, and what they might.

WRONG: functions by exercise.  EQUIVALENT: mutants of an exercise's code that are right after all, as the changed
line is printed by ``ast.unparse``, and why.
"""
