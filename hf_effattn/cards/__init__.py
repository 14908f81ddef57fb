"""Model cards: written from the results of the run that trained a checkpoint."""
