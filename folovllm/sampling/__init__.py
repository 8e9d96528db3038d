"""From a row of logits to the next token: chapter 2's strategies, and what a request forbids or prefers before them.

May import configs, parameters, requests and what stands under them; nothing of ``models/``, ``engine/`` or above.
"""
