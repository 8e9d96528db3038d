"""The exercises of chapter 04, a module each: its solution, and the mistakes that it catches."""

from folovllm.course.exercises.loading import flat_batch, position_ids, read_tensor

EXERCISES = [read_tensor.EXERCISE, position_ids.EXERCISE, flat_batch.EXERCISE]
