"""Who is to be told of what, when and how."""
