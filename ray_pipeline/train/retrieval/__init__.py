"""Fine-tuning a sentence-embedding model on queries and the contexts that they ask for.

- `losses`   sentence-transformers' losses on the embeddings of a whole batch, by name
- `pairs`    training pairs, their batches, and which contexts of a batch are no negatives
- `job`      a training as data, its loop, and its result
"""
