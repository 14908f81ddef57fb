"""``python -m hf_effattn`` is the ``hf-effattn`` command."""

from .cli import app


if __name__ == "__main__":
    app(prog_name="hf-effattn")
