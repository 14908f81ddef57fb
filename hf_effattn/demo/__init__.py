"""A page to try checkpoints on, in a browser: ``hf-effattn demo``."""
