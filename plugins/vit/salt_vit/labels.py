"""Which labels published image weights have learned from, told by timm's names and tags; no torch.

timm's tags name the data in the order of the training: ``laion2b_ft_in12k_in1k`` saw LAION's captions,
then the classes of ImageNet-12k and of ImageNet-1k.
"""

from __future__ import annotations

import re

NONE = "none"
CAPTIONS = "captions"
UNKNOWN = "unknown"

_SELF_SUPERVISED = re.compile(r"dino|mae|lvd\d+m|sat\d+m|in\w+_ijepa")
_CAPTIONED = re.compile(r"laion|openai|datacomp|dfn|metaclip|webli|merged2b|tinyclip|pali|apple|ogvl")
# PE and BEiT-3 learned from captions; EVA's masked modelling predicts the features of a CLIP that did.
_CAPTIONED_MODELS = re.compile(r"vit_pe_|beit3_|eva")
_CLASSES = re.compile(r"in(1k|12k|21k|22k)")


def labels_of(model: str, tag: str) -> str:
    """The labels, as in `ModelCard`.

    Args:
        model: Its name in timm, without the tag.
        tag: Of the weights.
    """
    if _SELF_SUPERVISED.fullmatch(tag):
        return NONE
    found = [CAPTIONS] if _CAPTIONED.search(tag) or _CAPTIONED_MODELS.match(model) else []
    # EVA names the pictures of its masked modelling, too, whose classes it never saw.
    words = tag.partition("ft_")[2] if model.startswith("eva") else tag
    for word in words.split("_"):
        match = _CLASSES.fullmatch(word)
        label = f"ImageNet-{match[1]}" if match else "Bamboo" if word == "bamboo" else None
        if label and label not in found:
            found.append(label)
    return ", ".join(found) or UNKNOWN
