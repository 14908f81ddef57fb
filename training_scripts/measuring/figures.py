"""Settings of matplotlib that figures in results share."""

from typing import Any


#: Without a salt and a date of their own, SVG files differ from run to run.
DETERMINISTIC: dict[Any, Any] = {"svg.hashsalt": "hf_effattn", "svg.fonttype": "none"}
