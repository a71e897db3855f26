"""Training one model, in plain torch: Ray Train wraps the loop in `launch` alone.

- `batches`        which rows make which optimizer step, on which rank
- `losses`         cross-entropy and distillation on answer tokens
- `forward`        a model's outputs at answer positions, and a teacher's
- `held_out`       the loss on rows that are not trained on
- `optimizers`     the optimizers, by name
- `replica`        how a rank holds the model: whole, or a shard of it
- `loop`           the training loop: accumulation, schedule, early stopping, checkpoints
- `checkpoints`    the files that a training resumes from
- `student`        a smaller model: cut from a teacher, from a configuration, or another one
- `scratch`        a model with random weights
- `adapters`       LoRA and QLoRA
- `teacher_cache`  the teacher's top-k log-probabilities, computed once; `vllm_cache`: by vLLM
- `census`         the rows of an experiment's subsets, counted before anything is trained
- `job`            one training as data, and how it is run on a rank
- `launch`         runs a job in this process, or on workers of Ray Train
- `store`          puts a trained model into the run directory
"""
