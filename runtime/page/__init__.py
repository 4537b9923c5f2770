"""The page: a web server in a process of its own, which can neither slow nor stop the loop that it shows."""
