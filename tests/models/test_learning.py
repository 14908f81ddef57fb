"""Every family learns: associative recall with distractors, generated, by its head for classification.

A sequence holds every key once, bound to a random value, in random order among distractors; its last token asks for
one of the keys, and the label is that key's value. Guessing gives 25 %.
"""

import pytest
import torch

from hf_effattn.families import find
from tests.models.variants import tiny_config


KEYS, VALUES, DISTRACTORS, LENGTH = 6, 4, 10, 12
FIRST_PAIR = 4
FIRST_DISTRACTOR = FIRST_PAIR + KEYS * VALUES
FIRST_QUESTION = FIRST_DISTRACTOR + DISTRACTORS

#: Family, direction, options.
LEARNERS = [
    ("simpletron", False, {}),
    ("simpletron", True, {"key_value_filter": "conv"}),
    ("kernel_transformer", False, {"feature_map": "elu"}),
    ("kernel_transformer", True, {"feature_map": "glu", "num_kernel_layers": 2}),
    ("luna", False, {"memory_size": 8}),
    ("convluna", False, {"memory_size": 8}),
    ("memory_transformer", False, {"memory_size": 4}),
    ("memory_transformer", False, {"memory_size": 4, "segment_length": 7, "memory_filter": "avg_pool"}),
    ("memory_transformer", True, {"memory_size": 4, "segment_length": 7}),
    ("vanilla_transformer", False, {}),
    ("vanilla_transformer", True, {}),
]


def draw(batch: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences ``[batch, LENGTH + 1]`` and labels ``[batch]``."""
    values = torch.randint(VALUES, (batch, KEYS), generator=generator)
    pairs = FIRST_PAIR + torch.arange(KEYS) * VALUES + values
    distractors = FIRST_DISTRACTOR + torch.randint(DISTRACTORS, (batch, LENGTH - KEYS), generator=generator)
    order = torch.rand(batch, LENGTH, generator=generator).argsort(1)
    asked = torch.randint(KEYS, (batch, 1), generator=generator)
    tokens = torch.cat([pairs, distractors], dim=1).gather(1, order)
    return torch.cat([tokens, FIRST_QUESTION + asked], dim=1), values.gather(1, asked)[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "is_decoder", "options"),
    LEARNERS,
    ids=[
        "-".join([name, "causal" if causal else "bidirectional", *map(str, o.values())])
        for name, causal, o in LEARNERS
    ],
)
def test_associative_recall_is_learned(name, is_decoder, options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "initializer_range": 0.1, "num_labels": VALUES}
    config = tiny_config(find(name), pooling="last", is_decoder=is_decoder, **sizes, **options)
    model = find(name).model_class("AutoModelForSequenceClassification")(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=500)
    generator = torch.Generator().manual_seed(1)
    for _ in range(500):
        ids, labels = draw(64, generator)
        optimizer.zero_grad()
        model(ids, labels=labels).loss.backward()
        optimizer.step()
        schedule.step()
    ids, labels = draw(2000, torch.Generator().manual_seed(2))
    with torch.no_grad():
        accuracy = (model.eval()(ids).logits.argmax(-1) == labels).double().mean()
    assert accuracy > 0.9, f"{accuracy:.1%}"
