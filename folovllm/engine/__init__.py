"""The loop that turns requests into text; start reading at ``llm_engine.py``.

``llm.py``, the command line and the course import from here; it imports ``sampling/``, ``models/`` and what they use.
"""
