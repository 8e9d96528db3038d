"""Predictions, a file per chapter: what learners are asked before they see what happens, and told then."""
