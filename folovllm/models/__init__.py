"""From a model's name to the logits of a scheduled step: files, checks, our forward pass, the KV tensors.

``model_loader.py``, ``engine/`` and what is above import from here; it knows nothing of them, nor of ``sampling/``.
"""
