"""Web server: which host names, origins, logins and files it accepts, and its error messages."""
