"""The added generator by its id alone: in the registry, on the form, in a plan and in the worker."""

import multiprocessing
from dataclasses import replace

import numpy as np
import torch

from backends import bench, registry
from backends.events import Done, Loading, Progress, Update
from backends.hub import artifacts
from backends.runtime.generator_process import Ended, JobRunner, Order, make_controls
from ui.form.run_spec import parse
from ui.form.values import default_form

ID = "mosaic"
CPU = torch.device("cpu")
spec = registry.find(ID)
assert spec in registry.specs()
assert next(entry for entry in registry.entries() if entry.spec is spec).missing is None
assert ID in artifacts.ids()

form = replace(default_form(spec), memory="compare")
plain, quantized = form.plans(spec, None)
assert quantized.kv_bytes < plain.kv_bytes
job = parse(form, spec).job()
assert (job.request.prompt, job.request.blocks, len(job.sides)) == (spec.examples[0], 2, 2)

reports: list[object] = []
controls = make_controls(multiprocessing.get_context("spawn"))
JobRunner(CPU, "backends.registry:load", controls).serve(Order(1, job), reports.append)
assert Loading("Loading Mosaic") in reports
assert sum(isinstance(report, Progress) for report in reports) == 2 * 2 * 2  # blocks, sides, steps
updates = [report for report in reports if isinstance(report, Update)]
assert [(update.segment.index, update.side) for update in updates] == [(0, 0), (0, 1), (1, 0), (1, 1)]
first, first_quantized, second, second_quantized = (update.segment.frames for update in updates)
assert first.shape == (spec.frames_per_block, spec.height, spec.width, 3)
assert first.std() > 10
# The second block is the first that reads encoded keys and values.
assert np.array_equal(first, first_quantized)
assert not np.array_equal(second, second_quantized)
assert updates[2].stats.stored_bytes == plain.kv_bytes
assert updates[3].stats.stored_bytes == quantized.kv_bytes
last = reports[-1]
assert isinstance(last, Ended) and isinstance(last.event, Done), last
assert (last.event.blocks, last.event.frames) == (2, spec.video_frames(2))

assert bench.load(ID, CPU, random_weights=True, tiny=True).spec is spec
print("added")
