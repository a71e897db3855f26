"""Training: from rows to a model. Plain torch here; Ray Train wraps the loop, it is not in it.

- `tokens`         rows → token ids with a mask of the answer, and an account of every row
- `batches`        which rows make which optimizer step, on which rank
- `losses`         cross-entropy and distillation on answer tokens
- `loop`           the training loop: accumulation, schedule, early stopping, checkpoints
- `student`        a smaller model: cut from a teacher, from a configuration, or another one
- `teacher_cache`  the teacher's top-k log-probabilities, computed once
"""
