"""Texts by models: Gemini, servers that speak OpenAI's API, an offline placeholder, and budgets."""
