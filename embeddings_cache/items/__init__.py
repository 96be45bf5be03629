"""What to embed: arguments made into items, and the content that names each."""
