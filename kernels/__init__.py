"""Triton templates: a template owns the loop, the generated code says what is loaded and what is stored."""
