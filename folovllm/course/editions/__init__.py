"""What is made of the notebooks: an instructor's edition, slides, a chapter put back as it was.

Only the command line imports from here.
"""
