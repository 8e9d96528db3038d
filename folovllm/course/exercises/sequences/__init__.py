"""The exercises of chapter 03, a module each: its solution, and the mistakes that it catches."""

from folovllm.course.exercises.sequences import beam_step, copies, family_blocks, fork, preempt

EXERCISES = [fork.EXERCISE, copies.EXERCISE, family_blocks.EXERCISE, preempt.EXERCISE, beam_step.EXERCISE]
