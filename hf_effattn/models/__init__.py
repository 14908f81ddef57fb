"""The code that travels inside checkpoints: operators, layers, the shared skeleton, and the families.

The beginning of a file's name says on which shelf the file lies. A file imports from its own shelf and from those
above it in this table; ``make lint`` refuses any other import.

    ops_reference        the oracles: they import nothing of ours, and are written to be read
    base_*               what every shelf uses: versions, transforms, module hooks, `SequenceInfo`, the value of a call
    backend_*, triton_*  the table of backends, and the implementations behind it
    ops_*                public operators: linear attention, softmax attention, packing; attention maps
    configuration_*      a family is its config class
    cache_*              how the states of a decoder lie on transformers' cache
    layer_*              filters, feature maps, attention layers, embeddings, learned memory
    skeleton_*           block, base model, heads, generation, inputs, outputs: once for all families
    family_*             what the models of one paper share: Luna and ConvLuna; the memory transformer
    modeling_*           the attention of a family, and its classes

The folder is flat because transformers copies code into a checkpoint by following ``from .name import thing``.
"""
