"""Tiny models for the page, as they come from a folder."""

import torch

import hf_effattn
from hf_effattn.demo.models import LoadedModel, load_models
from tests.models.variants import FAMILIES, tiny_model


BY_TYPE = {family.model_type: family for family in FAMILIES}
CLASSIFIER, DECODER = "AutoModelForSequenceClassification", "AutoModelForCausalLM"


def loaded(model_type, auto_class=CLASSIFIER, name="", **options):
    options = {"vocab_size": 260} | ({"is_decoder": True} if auto_class == DECODER else {}) | options
    model = tiny_model(BY_TYPE[model_type], auto_class, torch.float32, **options).eval()
    task = "generate" if auto_class == DECODER else "classify"
    return LoadedModel(name or model_type, model, hf_effattn.byte_tokenizer(80), task)


def exported(folder, model_type="simpletron", auto_class=CLASSIFIER, **options):
    made = loaded(model_type, auto_class, **options)
    hf_effattn.export_checkpoint(made.model, made.tokenizer, folder)
    return made


def load(*folders, **options):
    return load_models([str(folder) for folder in folders], **options)
