"""The exercises of chapter 02, a module each: its solution, and the mistakes that it catches."""

from folovllm.course.exercises.sampling import min_p, penalties, stop, temperature, top_p

EXERCISES = [temperature.EXERCISE, top_p.EXERCISE, min_p.EXERCISE, penalties.EXERCISE, stop.EXERCISE]
