"""The tables that the analytics assets write."""
