"""The form without its widgets: values, their validation, and the run they describe."""
