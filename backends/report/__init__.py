"""A report of one generator on one machine, BF16 against codecs: `python -m backends.report NAME`.

The same prompts, seeds and lengths with the KV cache in BF16 and in every codec, from one model in memory.
The report is a folder:

    report.html, report.json    all of it, to read and to compute with
    plots/                      bytes and PSNR against time, where matplotlib is installed
    01-a-red-fox/               a prompt: mp4 and JSON of each codec, all side by side, a contact sheet
    settings.json               the settings: the same command resumes where it was interrupted

`report.json` is one object (`schema` 1):

    complete            whether every pair of prompt and codec is there
    settings            what settings.json holds: backend, weights, codecs, policy, mode, options, blocks,
                        tasks (prompt, path, picture, seed), device, torch and program (the commit)
    title, folders      the generator's; the prompts', in the order of tasks
    made                command, started, machine (name, driver, memory_bytes, attention, ...), versions
    windows             what figures are of: name to [from, to] in seconds, null where it is one block
    lpips, plots        null, or why there are none
    notes               of codecs that these videos are too short for
    codecs              a row for each codec, over all prompts: codec, pairs, fits, kv_bytes, bf16_bytes,
                        ratio, peak_device_bytes and peak_process_bytes (largest), ms (mean),
                        frames_per_second, quality (as `windows` below)
    pairs               a row for each prompt and codec:
        task, codec     number of the prompt from 0; preset
        state           "whole", "did not fit" (out of memory) or "failed", with the reason in `said`
        video           path in the folder, null where no block was made
        frames, blocks, fps, width, height
        frames_by_block, kv_bytes, bf16_bytes       after every block: bytes held, and in BF16
        kv_parts, host_bytes, scratch_bytes, ratio  at the end
        peak_device_bytes   of torch's allocator, null without a GPU
        peak_process_bytes  of the process
        ms              mean of all blocks but the first: block, denoise, read (part of denoise), encode,
                        decode, and context or condition where a generator makes its memory anew
        first_block_ms  its time alone
        quality         null for BF16, and where no frame of BF16 is there to compare with:
            identical_frames        from the beginning, equal to BF16's to the bit
            windows                 name to {frames, psnr, ssim, lpips}; null where the video ends before
            mse, ssim, lpips        by frame; lpips null where it is not installed

PSNR is in dB for a peak of 255, of the mean squared error over a window's frames; "equal" where that is 0.
"""
