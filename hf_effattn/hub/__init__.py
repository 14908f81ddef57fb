"""From a trained model to a checkpoint that anyone can load: export it, and prove that it loads."""
