"""Report on one generator on one machine, BF16 against codecs: `python -m backends.report NAME`.

The same prompts, seeds and lengths are generated with the KV cache in BF16 and in every codec, from one
loaded model. The report is a folder:

    report.html, report.json    the whole report, to read and to compute with
    plots/                      bytes and PSNR against time, if matplotlib is installed
    01-a-red-fox/               a prompt: mp4 and JSON of each codec, all side by side, a contact sheet
    settings.json               the settings: the same command resumes an interrupted report

`report.json` is one object (`schema` 1):

    complete            whether every pair of prompt and codec is there
    settings            the content of settings.json: backend, weights, codecs, policy, mode, options,
                        blocks, tasks (prompt, path, picture, seed), device, torch and program (the commit)
    title, folders      the generator's; the prompts', in the order of tasks
    made                command, started, machine (name, driver, memory_bytes, attention, ...), versions
    windows             time windows of figures: name to [from, to] in seconds, null for a single block
    lpips, plots        null, or why they are missing
    notes               about codecs for which these videos are too short
    codecs              a row for each codec, over all prompts: codec, pairs, fits, kv_bytes, bf16_bytes,
                        ratio, peak_device_bytes and peak_process_bytes (largest), ms (mean),
                        frames_per_second, quality (as `windows` below)
    pairs               a row for each prompt and codec:
        task, codec     number of the prompt from 0; preset
        state           "whole", "did not fit" (out of memory) or "failed", with the reason in `said`
        video           path in the folder, null if no block was generated
        frames, blocks, fps, width, height
        frames_by_block, kv_bytes, bf16_bytes       after every block: bytes of the cache, and in BF16
        kv_parts, host_bytes, scratch_bytes, ratio  at the end
        peak_device_bytes   of torch's allocator, null without a GPU
        peak_process_bytes  of the process
        ms              mean of all blocks but the first: block, denoise, read (part of denoise), encode,
                        decode, and context or condition if a generator rebuilds its history
        first_block_ms  of the first block alone
        quality         null for BF16, and if BF16 has no frame to compare with:
            identical_frames        from the beginning, bit for bit equal to BF16's
            windows                 name to {frames, psnr, ssim, lpips}; null if the video ends earlier
            mse, ssim, lpips        by frame; lpips null if it is not installed

PSNR is in dB for a peak of 255, of the mean squared error over a window's frames; "equal" if that is 0.
"""
