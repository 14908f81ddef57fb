"""A figure of what a model attends to and of what its memory holds."""

from typing import Any

import torch

from ..extras import needs_extra
from ..models.skeleton_model import EffAttnPreTrainedModel
from .modes import evaluating


with needs_extra("train"):
    from matplotlib.figure import Figure


@torch.no_grad()
def attention_figure(model: EffAttnPreTrainedModel, **inputs: Any) -> Figure:
    """One column per layer, for the first sequence of a batch: attention maps, and how its rows spread.

    The first row shows `attentions` (the implied map, or how tokens read the memory), the second, for Luna and
    ConvLuna and the encoders of the memory transformer, `pack_attentions` (how the memory reads tokens), both averaged
    over heads. The last row shows the singular values of the map of the first, each over the greatest: a memory that
    has degraded to a single direction falls at once.

    Args:
        model: any model of the library; it is run in eval mode, and left as it was.
        **inputs: what its forward takes.

    Returns:
        A matplotlib figure: ``attention_figure(...).savefig("attention.png")``.

    Raises:
        ValueError: as the model does for `output_attentions`.
    """
    options = {"use_cache": False} if model.config.is_decoder else {}
    with evaluating(model):
        outputs = model(**inputs, output_attentions=True, **options)
    rows = {"attention": outputs.attentions, "pack attention": outputs.pack_attentions}
    shown = {name: [layer[0].mean(0).float().cpu() for layer in maps] for name, maps in rows.items() if maps}
    layers = len(outputs.attentions)
    figure = Figure(figsize=(3 * layers, 2.6 * (len(shown) + 1)), layout="constrained")
    axes = figure.subplots(len(shown) + 1, layers, squeeze=False)
    for row, (name, maps) in enumerate(shown.items()):
        for column, weights in enumerate(maps):
            image = axes[row, column].imshow(weights, aspect="auto", cmap="viridis", interpolation="nearest")
            figure.colorbar(image, ax=axes[row, column])
            axes[row, column].set_title(f"layer {column}: {name}", fontsize=9)
    for column, weights in enumerate(shown["attention"]):
        singular = torch.linalg.svdvals(weights)
        axes[-1, column].semilogy(range(1, len(singular) + 1), singular / singular[0].clamp(min=1e-30))
        axes[-1, column].set_title(f"layer {column}: singular values", fontsize=9)
    return figure
