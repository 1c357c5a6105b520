"""Notifications: users' preferences, in-app messages and webhooks."""
