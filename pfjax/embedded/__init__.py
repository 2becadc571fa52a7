"""The checkpoints that come with the package, and how their tokenizer is built; see README.md."""
