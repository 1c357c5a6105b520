"""Images and videos: decoded in separate processes with limits, and stored by checksum."""
