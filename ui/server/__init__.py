"""HTTP: which host names, origins, logins and files are answered, and how refusals read."""
