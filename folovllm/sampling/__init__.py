"""From a row of logits to the next token: chapter 2's strategies, and what a request forbids or prefers before them.

``engine/``, ``llm.py`` and the course import from here; it knows nothing of ``models/``, ``engine/`` or what is above.
"""
