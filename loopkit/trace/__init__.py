"""What a loop really does, as recorded: the file, the picture, and what two of them have in common."""
