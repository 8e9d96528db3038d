"""One file of exercises a chapter, their frame in ``exercise.py``, and ``check``, which judges a learner's answer.

May import the engine and what lies flat in ``course/``; editions take their notes and solutions from here.
"""
