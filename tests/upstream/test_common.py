"""transformers' own common model and config tests, for every family of the registry."""

import copy
import sys
import unittest

import pytest
import torch
from transformers.models.auto import modeling_auto

from hf_effattn.families import Family
from tests.models.variants import FAMILIES, FAMILY_SIZES, random_ids, tiny_config
from tests.upstream.fetch import PACKAGE, fetch


sys.path.insert(0, str(fetch()))
common = pytest.importorskip(f"{PACKAGE}.test_modeling_common", reason="fetched above")
configuration = pytest.importorskip(f"{PACKAGE}.test_configuration_common", reason="fetched above")

#: Name tables by which the common tests tell what inputs and labels a class takes.
TABLES = {
    "AutoModel": "MODEL_MAPPING_NAMES",
    "AutoModelForMaskedLM": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "AutoModelForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForTokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForQuestionAnswering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "AutoModelForMultipleChoice": "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES",
    "AutoModelForImageClassification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
}

#: Upstream tests that do not apply to us, each with the reason. All other skips are upstream's own decisions.
NOT_APPLICABLE = {
    "test_generation_tester_mixin_inheritance": "upstream's generation tests are not in its source distribution; "
    "tests/models/test_generation.py has ours",
    "test_bc_cache_name_forward": "no release of ours has taken the cache under an older name",
    "test_retain_grad_hidden_states_attentions": "the attention map is computed beside the output, for reading",
}

#: The same for models that read pixels.
NOT_APPLICABLE_TO_IMAGES = {
    "test_model_get_set_embeddings": "pixels are embedded by a linear layer, not by nn.Embedding",
    "test_resize_tokens_embeddings": "pixels have no vocabulary to resize",
    "test_resize_embeddings_untied": "pixels have no vocabulary to resize",
}

#: The same for models that refuse reentrant checkpointing.
NOT_APPLICABLE_WITHOUT_REENTRANCE = {
    "test_training_gradient_checkpointing_use_reentrant_true": "its blocks read and return lists of tensors, in which "
    "reentrant checkpointing loses gradients; tests/models/test_blocks.py has the refusal",
}

#: Per family options that change its parameters, its cache and its way through the layers, beside its defaults.
OPTIONS = {
    "simpletron": {
        "key_value_filter": "conv",
        "use_output_projection": True,
        "norm_position": "post",
        "block_skip": True,
    },
    "kernel_transformer": {
        "feature_map": "low_rank_glu",
        "num_kernel_layers": 2,
        "orthogonality_penalty": 0.1,
        "key_value_filter": "max_pool",
        "classifier_hidden_size": [20, 12],
        "last_norm": False,
    },
    "luna": {"memory_size": 1, "shared_projections": [], "norm_position": "pre", "cls_position": False},
    "convluna": {
        "filter_stride": 2,
        "filter_windows": "full",
        "use_value_projection": True,
        "shared_projections": [],
        "embedding_norm": False,
        "last_norm": True,
    },
    "memory_transformer": {"segment_length": 4, "memory_filter": "conv", "last_norm": False, "embedding_norm": True},
    "vanilla_transformer": {"key_value_filter": "conv", "norm_type": "scale_norm", "cls_position": False},
}

# It sets every epsilon that any model of transformers has, and our configs refuse fields that they do not have.
common.set_config_for_less_flaky_test = lambda config: None


class Tester:
    """What the common tests ask a model for: a small config and a batch of inputs."""

    batch_size, seq_length, num_hidden_layers, hidden_size, num_attention_heads = 3, 7, 2, 24, 3
    num_choices = 4
    is_training = True

    def __init__(self, parent: unittest.TestCase, family: Family, images: bool, options: dict):
        self.parent, self.family, self.images, self.options = parent, family, images, options
        if images:
            self.seq_length = 1 + 4 * 5
        # How many keys a token reads: the cells of a memory, or memory tokens beside the others.
        cells = (FAMILY_SIZES.get(family.model_type, {}) | options).get("memory_size", 0)
        beside = 0 if family.model_type in ("luna", "convluna") else self.seq_length
        self.key_length = cells + beside

    def get_config(self):
        channels = {"num_channels": 2} if self.images else {}
        return tiny_config(self.family, **channels | self.options)

    def prepare_config_and_inputs_for_common(self):
        if self.images:
            return self.get_config(), {"pixel_values": torch.rand(self.batch_size, 2, 4, 5)}
        mask = torch.ones(self.batch_size, self.seq_length, dtype=torch.long)
        mask[0, -2:] = 0
        return self.get_config(), {
            "input_ids": random_ids(self.batch_size, self.seq_length),
            "attention_mask": mask,
        }


class FamilyTests:
    """The common tests of one family. unittest collects the classes that are made of it below."""

    family: Family
    images = False
    options: dict = {}
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = Tester(self, self.family, self.images, self.options)
        reasons = NOT_APPLICABLE | (NOT_APPLICABLE_TO_IMAGES if self.images else {})
        if not self.all_model_classes[0].reentrant_checkpointing:
            reasons |= NOT_APPLICABLE_WITHOUT_REENTRANCE
        if reason := reasons.get(self._testMethodName):
            self.skipTest(reason)

    def test_config(self):
        tester = configuration.ConfigTester(
            self, config_class=self.family.config_class, hidden_size=24, num_attention_heads=3
        )
        tester.run_common_tests()


def heads(family: Family, images: bool) -> tuple[type, ...]:
    names = [name for name in family.class_names if (name == "AutoModelForImageClassification") == images]
    return tuple(family.model_class(name) for name in names)


for family in FAMILIES:
    for auto_class, table in TABLES.items():
        if auto_class in family.class_names:
            getattr(modeling_auto, table)[family.model_type] = family.class_names[auto_class]
    kinds = [("", False, {}), ("Images", True, {}), ("Options", False, OPTIONS.get(family.model_type))]
    for kind, images, options in kinds:
        if options is None:
            continue
        name = f"{family.name}{kind}ModelTest"
        members = {"family": family, "images": images, "options": options}
        # Segments never attend to the whole input at once, and so have no maps of it.
        members["has_attentions"] = "segment_length" not in options
        members["all_model_classes"] = heads(family, images)
        globals()[name] = type(name, (FamilyTests, common.ModelTesterMixin, unittest.TestCase), copy.copy(members))
