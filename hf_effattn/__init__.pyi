# Written by training_scripts/public_names.py from the table in __init__.py.

from .diagnostics.callback import DiagnosticsCallback as DiagnosticsCallback
from .diagnostics.collect import diagnose as diagnose
from .diagnostics.figure import attention_figure as attention_figure
from .families import Family as Family
from .families import list_families as list_families
from .hub.audit import audit_checkpoint as audit_checkpoint
from .hub.card import write_card as write_card
from .hub.export import export_checkpoint as export_checkpoint
from .hub.push import push_checkpoint as push_checkpoint
from .hub.verify import verify_checkpoint as verify_checkpoint
from .hub.verify import verify_folder as verify_folder
from .models.configuration_convluna import ConvLunaConfig as ConvLunaConfig
from .models.configuration_effattn import EffAttnConfig as EffAttnConfig
from .models.configuration_effattn import HEADS as HEADS
from .models.configuration_kernel_transformer import KernelTransformerConfig as KernelTransformerConfig
from .models.configuration_luna import LunaConfig as LunaConfig
from .models.configuration_memory_transformer import MemoryTransformerConfig as MemoryTransformerConfig
from .models.configuration_simpletron import SimpleTronConfig as SimpleTronConfig
from .models.configuration_vanilla_transformer import VanillaTransformerConfig as VanillaTransformerConfig
from .models.layer_filters import KeyValueFilter as KeyValueFilter
from .models.modeling_convluna import ConvLunaForImageClassification as ConvLunaForImageClassification
from .models.modeling_convluna import ConvLunaForMaskedLM as ConvLunaForMaskedLM
from .models.modeling_convluna import ConvLunaForMultipleChoice as ConvLunaForMultipleChoice
from .models.modeling_convluna import ConvLunaForQuestionAnswering as ConvLunaForQuestionAnswering
from .models.modeling_convluna import ConvLunaForSequenceClassification as ConvLunaForSequenceClassification
from .models.modeling_convluna import ConvLunaForTokenClassification as ConvLunaForTokenClassification
from .models.modeling_convluna import ConvLunaModel as ConvLunaModel
from .models.modeling_kernel_transformer import KernelTransformerForCausalLM as KernelTransformerForCausalLM
from .models.modeling_kernel_transformer import (
    KernelTransformerForImageClassification as KernelTransformerForImageClassification,
)
from .models.modeling_kernel_transformer import KernelTransformerForMaskedLM as KernelTransformerForMaskedLM
from .models.modeling_kernel_transformer import (
    KernelTransformerForMultipleChoice as KernelTransformerForMultipleChoice,
)
from .models.modeling_kernel_transformer import (
    KernelTransformerForQuestionAnswering as KernelTransformerForQuestionAnswering,
)
from .models.modeling_kernel_transformer import (
    KernelTransformerForSequenceClassification as KernelTransformerForSequenceClassification,
)
from .models.modeling_kernel_transformer import (
    KernelTransformerForTokenClassification as KernelTransformerForTokenClassification,
)
from .models.modeling_kernel_transformer import KernelTransformerModel as KernelTransformerModel
from .models.modeling_luna import LunaForImageClassification as LunaForImageClassification
from .models.modeling_luna import LunaForMaskedLM as LunaForMaskedLM
from .models.modeling_luna import LunaForMultipleChoice as LunaForMultipleChoice
from .models.modeling_luna import LunaForQuestionAnswering as LunaForQuestionAnswering
from .models.modeling_luna import LunaForSequenceClassification as LunaForSequenceClassification
from .models.modeling_luna import LunaForTokenClassification as LunaForTokenClassification
from .models.modeling_luna import LunaModel as LunaModel
from .models.modeling_memory_transformer import MemoryTransformerForCausalLM as MemoryTransformerForCausalLM
from .models.modeling_memory_transformer import (
    MemoryTransformerForImageClassification as MemoryTransformerForImageClassification,
)
from .models.modeling_memory_transformer import MemoryTransformerForMaskedLM as MemoryTransformerForMaskedLM
from .models.modeling_memory_transformer import (
    MemoryTransformerForMultipleChoice as MemoryTransformerForMultipleChoice,
)
from .models.modeling_memory_transformer import (
    MemoryTransformerForQuestionAnswering as MemoryTransformerForQuestionAnswering,
)
from .models.modeling_memory_transformer import (
    MemoryTransformerForSequenceClassification as MemoryTransformerForSequenceClassification,
)
from .models.modeling_memory_transformer import (
    MemoryTransformerForTokenClassification as MemoryTransformerForTokenClassification,
)
from .models.modeling_memory_transformer import MemoryTransformerModel as MemoryTransformerModel
from .models.modeling_simpletron import SimpleTronForCausalLM as SimpleTronForCausalLM
from .models.modeling_simpletron import SimpleTronForImageClassification as SimpleTronForImageClassification
from .models.modeling_simpletron import SimpleTronForMaskedLM as SimpleTronForMaskedLM
from .models.modeling_simpletron import SimpleTronForMultipleChoice as SimpleTronForMultipleChoice
from .models.modeling_simpletron import SimpleTronForQuestionAnswering as SimpleTronForQuestionAnswering
from .models.modeling_simpletron import SimpleTronForSequenceClassification as SimpleTronForSequenceClassification
from .models.modeling_simpletron import SimpleTronForTokenClassification as SimpleTronForTokenClassification
from .models.modeling_simpletron import SimpleTronModel as SimpleTronModel
from .models.modeling_vanilla_transformer import VanillaTransformerForCausalLM as VanillaTransformerForCausalLM
from .models.modeling_vanilla_transformer import (
    VanillaTransformerForImageClassification as VanillaTransformerForImageClassification,
)
from .models.modeling_vanilla_transformer import VanillaTransformerForMaskedLM as VanillaTransformerForMaskedLM
from .models.modeling_vanilla_transformer import (
    VanillaTransformerForMultipleChoice as VanillaTransformerForMultipleChoice,
)
from .models.modeling_vanilla_transformer import (
    VanillaTransformerForQuestionAnswering as VanillaTransformerForQuestionAnswering,
)
from .models.modeling_vanilla_transformer import (
    VanillaTransformerForSequenceClassification as VanillaTransformerForSequenceClassification,
)
from .models.modeling_vanilla_transformer import (
    VanillaTransformerForTokenClassification as VanillaTransformerForTokenClassification,
)
from .models.modeling_vanilla_transformer import VanillaTransformerModel as VanillaTransformerModel
from .models.ops_linear import linear_attention as linear_attention
from .models.ops_linear import linear_attention_step as linear_attention_step
from .models.ops_pack import pack_attention as pack_attention
from .models.ops_pack import unpack_attention as unpack_attention
from .models.ops_softmax import softmax_attention as softmax_attention
from .operators import backends as backends
from .tokenization import byte_tokenizer as byte_tokenizer

__version__: str
