"""The engine's rooms; start reading at ``llm_engine.py``."""
