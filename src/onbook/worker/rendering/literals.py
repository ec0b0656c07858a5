"""The texts of control tokens: those of the known families, and those a chat template names."""

import re
from typing import Final

CHATML_START: Final = "<|im_start|>"
CHATML_END: Final = "<|im_end|>"
LLAMA3_BEGIN: Final = "<|begin_of_text|>"
LLAMA3_HEADER_START: Final = "<|start_header_id|>"
LLAMA3_HEADER_END: Final = "<|end_header_id|>"
LLAMA3_END: Final = "<|eot_id|>"
GEMMA_BEGIN: Final = "<bos>"
GEMMA_START: Final = "<start_of_turn>"
GEMMA_END: Final = "<end_of_turn>"
MISTRAL_BEGIN: Final = "<s>"
MISTRAL_END: Final = "</s>"
MISTRAL_USER: Final = "[INST]"
MISTRAL_USER_END: Final = "[/INST]"
MISTRAL_SYSTEM: Final = "[SYSTEM_PROMPT]"
MISTRAL_SYSTEM_END: Final = "[/SYSTEM_PROMPT]"

# ChatML: Qwen2.5 and Qwen3; Llama 3: its tokenizer's list of special tokens; Gemma 2 and 3;
# Mistral: the special tokens of its tokenizers v2 to v7.
FAMILY_LITERALS: Final = frozenset(
    {
        CHATML_START, CHATML_END, "<|endoftext|>", "<|im_sep|>",
        "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
        "<think>", "</think>",
        LLAMA3_BEGIN, LLAMA3_HEADER_START, LLAMA3_HEADER_END, LLAMA3_END,
        "<|end_of_text|>", "<|eom_id|>", "<|python_tag|>", "<|finetune_right_pad_id|>",
        GEMMA_BEGIN, GEMMA_START, GEMMA_END, "<eos>", "<pad>", "<mask>",
        "<start_of_image>", "<end_of_image>",
        MISTRAL_BEGIN, MISTRAL_END, MISTRAL_USER, MISTRAL_USER_END,
        MISTRAL_SYSTEM, MISTRAL_SYSTEM_END, "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[TOOL_CONTENT]",
        "[IMG]", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
        "[ARGS]", "[CALL_ID]",
    }
)  # fmt: skip

_SCANNED_CHARS: Final = 1_048_576
# Bounded runs of one character class each: a scan is linear in the template.
_IN_TEMPLATE: Final = re.compile(
    r"<[^<>\s'\"{}]{1,64}>|\[[/|A-Za-z_]{1,64}\]|<\|[^<>|\s'\"{}]{1,64}\|>"
)


def control_literals(chat_template: str | None) -> frozenset[str]:
    """Return texts that may be control tokens of a model with this chat template.

    They are candidates: whether a text is one token of the model, its tokenizer must say.
    """
    found = _IN_TEMPLATE.findall((chat_template or "")[:_SCANNED_CHARS])
    return FAMILY_LITERALS | frozenset(found)
