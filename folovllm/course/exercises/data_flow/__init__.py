"""The exercises of chapter 05, a module each: its solution, and the mistakes that it catches."""

from folovllm.course.exercises.data_flow import generate, share, shown, why

EXERCISES = [share.EXERCISE, shown.EXERCISE, why.EXERCISE, generate.EXERCISE]
