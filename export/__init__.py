"""A trained or foreign network becomes a verified encoder file, and the file what other runtimes take."""
