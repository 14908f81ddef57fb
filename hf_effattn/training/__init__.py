"""What the training scripts share: recipes, checkpoints to resume from, measurements and results."""
