"""What a learner moves, one widget a file, over the base in ``widget.py``.

May import the engine and what lies flat in ``course/``; figures may import widgets.
"""
