"""What the library costs here: `python -m qvg.bench ops`, `cache`, `plot` and `table`.

Shapes are those of the models this is for; on a CPU, of Pocket World, or small ones with the models' names.
The last line a measurement prints is one JSON object; pictures and tables are made from such files.
"""
