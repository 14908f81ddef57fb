"""Training runs: arguments, set-up, trainers, checkpoints to resume from, and typed results."""
