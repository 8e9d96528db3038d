"""What is made of the notebooks: an instructor's edition, slides, a chapter put back as it was.

May import exercises; only the command line imports editions.
"""
