"""The model run fast: compiled programs, problems in flight, the host's loop."""
