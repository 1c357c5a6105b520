"""Pictures and videos, decoded in processes of their own with limits, and where they are kept."""
