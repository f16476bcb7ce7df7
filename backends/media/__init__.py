"""Pictures and videos as files: the one reader and the one writer of the page and of the command lines."""
