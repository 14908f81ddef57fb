"""The window of versions: what is refused, what is warned of, and which differences are still needed."""

import importlib
import json
import logging
import re
import runpy
import tomllib
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub.errors import HfHubHTTPError
from packaging.requirements import Requirement
from packaging.version import Version
from transformers import AutoConfig, DynamicCache

import hf_effattn
from hf_effattn.models import base_compat, base_versions
from hf_effattn.models.backend_triton import missing_triton
from hf_effattn.models.base_versions import CODE_VERSION, SUPPORTED, check_names, check_versions
from tests.compat.run import BOUNDED, environments, lower_bounds
from tests.models.variants import FAMILIES, random_ids, tiny_config, tiny_model


pytestmark = pytest.mark.compat

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TESTED = {"torch": "2.13.0", "transformers": "5.24.0"}


@pytest.fixture
def spoken(caplog, monkeypatch):
    """What is logged, from the start on, as transformers' own loggers write it."""
    transformers.utils.logging.logging.Logger.warning_once.cache_clear()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        yield caplog


@pytest.mark.parametrize("package", SUPPORTED)
def test_releases_below_the_window_are_refused_with_the_remedy(package):
    lowest = SUPPORTED[package][0]
    check_versions(TESTED | {package: f"{lowest}.0.dev1+cpu"})
    with pytest.raises(
        ImportError, match=rf'{package} 1\.9\+x is installed.*pip install --upgrade "{package}>={lowest}"'
    ):
        check_versions(TESTED | {package: "1.9+x"})


@pytest.mark.parametrize("package", SUPPORTED)
def test_releases_above_the_window_are_warned_of_once(package, spoken):
    lowest, newest = SUPPORTED[package]
    check_versions(TESTED | {package: f"{newest}.9"})
    assert not spoken.messages
    for _ in range(2):
        check_versions(TESTED | {package: "99.1.0.dev0"})
    assert len(spoken.messages) == 1
    assert f"{package} 99.1.0.dev0 (tested: {lowest} to {newest})" in spoken.messages[0]


def test_releases_above_the_window_are_named_together(spoken):
    check_versions(dict.fromkeys(SUPPORTED, "99.0"))
    assert len(spoken.messages) == 1 and all(f"{package} 99.0" in spoken.messages[0] for package in SUPPORTED)


@pytest.mark.parametrize(
    ("package", "owner", "name"),
    [("torch", torch, "compiler.is_gone"), ("transformers", transformers.PreTrainedModel, "_is_gone")],
)
def test_what_is_missing_is_named(package, owner, name):
    version = re.escape({"torch": torch, "transformers": transformers}[package].__version__)
    with pytest.raises(ImportError, match=rf"needs {owner.__name__}\.{name}, which {package} {version} does not have"):
        check_names(package, owner, ["__name__", name])


@pytest.mark.parametrize("name", base_versions.NEEDED_OF_TORCH)
def test_torch_without_something_that_is_needed_is_refused_at_import(name, monkeypatch):
    monkeypatch.delattr(f"torch.{name}")
    with pytest.raises(ImportError, match=rf"needs torch\.{name}, which torch .* does not have"):
        runpy.run_path(base_versions.__file__)


def test_no_difference_is_kept_for_releases_that_are_not_supported():
    """Who raises a lower bound has lines of `base_compat` to remove."""
    lowest = dict(bound.split("==") for bound in lower_bounds(BOUNDED))
    over = [what for what, (package, end) in base_compat.ENDED.items() if Version(lowest[package]) >= Version(end)]
    assert not over, f"hf_effattn/models/base_compat.py does not need these any more: {over}"


def test_the_window_is_that_of_the_package():
    stated = {requirement.name: requirement.specifier for requirement in map(Requirement, PROJECT["dependencies"])}
    for package, (lowest, _) in SUPPORTED.items():
        assert str(stated[package]) == f">={lowest}", "the check at import and pip say the same, and neither has a cap"
    assert environments()["oldest"][0] == f"transformers=={SUPPORTED['transformers'][0]}"


def test_the_code_says_the_version_of_the_package():
    assert hf_effattn.__version__ == CODE_VERSION, "hf_effattn/version.py and the code that travels say the same"


def test_a_config_says_which_code_wrote_it(tmp_path):
    config = tiny_config(FAMILIES[0])
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert written["hf_effattn_version"] == CODE_VERSION
    again = type(config).from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert not hasattr(again, "hf_effattn_version"), "what it writes is what runs, not what it was read from"
    assert type(config)(**config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize("version", [None, CODE_VERSION, "0.0.9", "9.0"])
def test_a_checkpoint_of_other_code_is_spoken_of_once(version, tmp_path, spoken):
    tiny_config(FAMILIES[0]).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    del written["hf_effattn_version"]
    path.write_text(json.dumps(written | ({} if version is None else {"hf_effattn_version": version})))
    for _ in range(2):
        AutoConfig.from_pretrained(tmp_path)
    if version in (None, CODE_VERSION):
        assert not spoken.messages
        return
    assert len(spoken.messages) == 1
    assert f"by hf_effattn {version} and is read by the installed package's code, {CODE_VERSION}" in spoken.messages[0]
    path.write_text(json.dumps(written | {"hf_effattn_version": version, "invented": 1}))
    with pytest.raises(TypeError, match=f"no field 'invented'.*by hf_effattn {version}, and this is {CODE_VERSION}"):
        AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.causal], ids=lambda family: family.model_type)
def test_a_cache_goes_by_both_names(family):
    """In and out, of forward and of generate, whichever is transformers' own."""
    model, ids = tiny_model(family, "AutoModelForCausalLM"), random_ids(1, 6)
    caches = [DynamicCache(config=model.config) for _ in range(2)]
    given = [{"cache": caches[0]}, {"past_key_values": caches[1]}]
    if base_compat.CACHE_NAME == "cache":
        with pytest.warns(FutureWarning, match="Use `cache` instead"):
            outputs = [model(ids, **names) for names in given]
    else:
        outputs = [model(ids, **names) for names in given]
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    for output, cache in zip(outputs, caches, strict=True):
        assert output.cache is output[base_compat.CACHE_NAME] is cache
    generated = model.generate(ids, max_new_tokens=2, return_dict_in_generate=True)
    assert generated.cache is generated[base_compat.CACHE_NAME]
    assert generated.cache is not None


@pytest.mark.parametrize(
    "keep", [0, 2, torch.tensor([0, 3]), torch.tensor([[1], [2]]), torch.arange(8).view(2, 4) > 4]
)
def test_logits_are_kept_where_they_are_wanted(keep):
    states = torch.randn(2, 4, 3)
    if isinstance(keep, int):
        expected = states[:, -keep:] if keep else states
    elif keep.dtype == torch.bool:
        expected = torch.stack([states[row, column] for row, column in keep.nonzero()])
    else:
        rows = keep.expand(2, -1) if keep.dim() == 1 else keep
        expected = torch.stack([states[row, places] for row, places in enumerate(rows)])
    assert torch.equal(base_compat.slice_logits_to_keep(states, keep), expected)


def test_results_leave_out_caches_of_either_name():
    """`Trainer` gathers what is not left out."""
    for family in FAMILIES:
        assert {"cache", "past_key_values"} <= set(family.config_class.keys_to_ignore_at_inference)


def test_a_broken_connection_is_one_of_the_http_error():
    client = importlib.import_module(base_compat.HTTP_ERROR.__module__.split(".")[0])
    assert issubclass(client.ConnectError, base_compat.HTTP_ERROR)
    assert issubclass(HfHubHTTPError, base_compat.HTTP_ERROR)


def test_an_old_triton_is_refused_with_the_remedy(monkeypatch):
    triton = pytest.importorskip("triton")
    monkeypatch.delattr(triton, "knobs")
    reason = missing_triton()
    assert re.fullmatch(r"Triton .* is too old; pip install .*'triton>=3\.4'", reason)
