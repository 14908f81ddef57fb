"""Write modeling_configs/: a file for every preset of `hf_effattn.list_presets`.

python -m training_scripts.make_configs
"""

import json
from pathlib import Path
from typing import Any

import hf_effattn


FOLDER = Path(__file__).parents[1] / "modeling_configs"


def configs() -> dict[str, dict[str, Any]]:
    """File name without its ending -> the fields of the config."""
    return {
        preset.name.replace("/", "-"): {"model_type": preset.model_type} | preset.fields
        for preset in hf_effattn.list_presets()
    }


def main() -> None:
    """Write every file, and remove those of presets that no longer exist."""
    current = configs()
    for path in FOLDER.glob("*.json"):
        if path.stem not in current:
            path.unlink()
    for name, fields in current.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(fields, indent=2) + "\n")


if __name__ == "__main__":
    main()
