"""A figure of the attention maps of a model."""

from typing import Any

import torch

from ..extras import needs_extra
from ..models.skeleton_model import EffAttnPreTrainedModel
from .collect import eval_mode


with needs_extra("train"):
    from matplotlib.figure import Figure


@torch.no_grad()
def attention_figure(model: EffAttnPreTrainedModel, **inputs: Any) -> Figure:
    """Draw the attention maps of the first sequence of a batch, with one column per layer.

    - The first row shows `attentions`: the implied map, or how tokens read the memory.
    - The second row shows `pack_attentions`: how the memory reads tokens. Luna, ConvLuna and the encoders of the
      memory transformer have it.
    - The last row shows the singular values of the map in the first row, each divided by the greatest one. If a memory
      has degraded to a single direction, they drop at once.

    Maps are averaged over the heads.

    Args:
        model: any model of the library. It runs in eval mode, and gets its modes back.
        **inputs: the arguments of its forward.

    Returns:
        A matplotlib figure: ``attention_figure(...).savefig("attention.png")``.

    Raises:
        ValueError: the model refuses `output_attentions`, for example because the input is too long.
    """
    options = {"use_cache": False} if model.config.is_decoder else {}
    with eval_mode(model):
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
