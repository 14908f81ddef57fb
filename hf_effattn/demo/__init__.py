"""``hf-effattn demo``: a page in the browser to try checkpoints on."""
