"""The page. Gradio is imported here and nowhere else; torch is never imported here."""
