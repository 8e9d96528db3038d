"""The exercises of chapter 04b, a module each: its solution, and the mistakes that it catches."""

from folovllm.course.exercises.numbers import q8_0, rms_norm, round_bits

EXERCISES = [round_bits.EXERCISE, rms_norm.EXERCISE, q8_0.EXERCISE]
