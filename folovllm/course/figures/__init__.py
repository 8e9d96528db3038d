"""What a notebook draws from the engine's own functions and records, one file a chapter.

Notebooks take figures from ``folovllm.course``; nothing else in the package imports from here.
"""
