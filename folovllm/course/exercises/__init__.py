"""A package of exercises a chapter, their frame in ``exercise.py``, and ``check``, which judges a learner's answer.

Notebooks take ``check`` from ``folovllm.course``; editions import from here.
"""
