"""What a notebook draws from the engine's own functions and records, one file a chapter.

May import the engine, widgets and what lies flat in ``course/``; nothing imports figures but ``course/__init__.py``.
"""
