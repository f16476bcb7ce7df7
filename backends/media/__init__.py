"""Readers and writers of pictures and videos, shared by the page and the command lines."""
