"""One pretext method a file; a method's name is its module's. ``sslfeat.models.method`` says what a method is."""
