"""The documents hold: generated tables are current, examples run, configs load, the guide's family is a family."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

import hf_effattn
from tests.models.variants import random_ids


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONFIGS = sorted((ROOT / "modeling_configs").glob("*.json"))


def code_blocks(document, language):
    return re.findall(rf"```{language}\n(.*?)```", document, re.DOTALL)


def test_generated_tables_are_current():
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "training_scripts/readme_tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert tables.with_tables(README) == README, "run: python training_scripts/readme_tables.py"
    with pytest.raises(ValueError, match="needs the markers <!-- families -->"):
        tables.with_tables("no markers")


@pytest.mark.parametrize("number", range(3))
def test_readme_examples_run(number, tmp_path):
    block = code_blocks(README, "python")[number]
    if "path/to/checkpoint" in block:
        config = hf_effattn.SimpleTronConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
        model = hf_effattn.SimpleTronForSequenceClassification(config)
        hf_effattn.export_checkpoint(model, hf_effattn.byte_tokenizer(4096), tmp_path / "model")
        block = block.replace("path/to/checkpoint", str(tmp_path / "model"))
    subprocess.run([sys.executable, "-c", block], check=True, cwd=tmp_path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_modeling_configs_load(path):
    config = transformers.AutoConfig.from_pretrained(path)
    assert path.stem.startswith(f"{config.model_type}-")


def test_every_family_has_every_size():
    sizes = ("tiny", "quickstart", "base", "lra-text")
    expected = {f"{family.model_type}-{size}" for family in hf_effattn.list_families() for size in sizes}
    assert {path.stem for path in CONFIGS} == expected


NEW_FAMILY = """
import sys, torch, transformers
import hf_effattn
from transformers import DynamicCache
from hf_effattn.models.modeling_mean_former import MeanFormerForMaskedLM, MeanFormerModel
from hf_effattn.models.configuration_mean_former import MeanFormerConfig

sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
model = MeanFormerModel(MeanFormerConfig(**sizes, is_decoder=True, gain=2.0)).eval()
ids = torch.randint(4, 200, (2, 9))
whole = model(ids).last_hidden_state
first = model(ids[:, :4])
rest = model(ids[:, 4:], cache=first.cache).last_hidden_state
torch.testing.assert_close(rest, whole[:, 4:])
weights = model(ids, output_attentions=True, use_cache=False).attentions[0]
torch.testing.assert_close(weights[0, 0, 3, :4], torch.full((4,), 0.5))
MeanFormerForMaskedLM(MeanFormerConfig(**sizes)).save_pretrained(sys.argv[1])
"""


def test_the_guide_to_a_new_family_works(tmp_path):
    blocks = code_blocks((ROOT / "CONTRIBUTING.md").read_text(), "python")
    package = tmp_path / "hf_effattn"
    subprocess.run(["cp", "-r", str(ROOT / "hf_effattn"), str(package)], check=True)
    for name, block in zip(("configuration", "modeling"), blocks[:2], strict=True):
        (package / "models" / f"{name}_mean_former.py").write_text(block)
    command = [sys.executable, "-c", NEW_FAMILY, str(tmp_path / "saved")]
    subprocess.run(command, check=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"})
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert model(random_ids(1, 5)).logits.shape == (1, 5, 260)
