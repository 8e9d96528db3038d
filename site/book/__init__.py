"""How the course becomes a book on the web: pages from the notebooks' stored outputs, and a reference from docstrings.

``chapters``, ``front`` and ``reference`` write what Sphinx reads; ``docstrings`` and ``links`` are extensions of it.
"""
