"""The loop that turns requests into text; start reading at ``llm_engine.py``.

May import ``sampling/``, ``models/`` and what stands under them; ``llm.py``, the command line and the course import it.
"""
