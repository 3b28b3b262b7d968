"""Training losses: pure functions that return their terms by name, "total" among them."""

import torch.nn.functional as F


def classification_loss(output, labels):
    """Cross-entropy of every classifier that the output holds, weights 1:1.

    output: what an attention classifier returns, logits (B, K); labels (B,) class indices -> {name: scalar}.
    Plain and LFI-CAM: cross-entropy of the logits. ABN: L = L_att + L_per (Fukui et al., CVPR 2019).
    """
    terms = {"perception": F.cross_entropy(output.logits, labels)}
    if hasattr(output, "attention_logits"):
        terms["attention"] = F.cross_entropy(output.attention_logits, labels)
    return {"total": sum(terms.values()), **terms}
