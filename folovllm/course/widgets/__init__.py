"""What a learner moves, one widget a file, over the base in ``widget.py``.

Notebooks take widgets from ``folovllm.course``; figures may import from here, widgets import no figures.
"""
