"""The exercises of chapter 01, a module each: its solution, and the mistakes that it catches."""

from folovllm.course.exercises.config import block_size, kv_bytes, num_fitting, seats_needed

EXERCISES = [seats_needed.EXERCISE, kv_bytes.EXERCISE, num_fitting.EXERCISE, block_size.EXERCISE]
