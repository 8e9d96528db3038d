"""From a model's name to the logits of a scheduled step: files, checks, our forward pass, the KV tensors.

May import configs, parameters, requests and what stands under them; nothing of ``sampling/``, ``engine/`` or above.
"""
