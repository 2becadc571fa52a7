"""Training: batches, losses, a resumable loop, search results as data."""
