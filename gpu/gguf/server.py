"""Run llama.cpp's server on a GGUF file: `python -P -m gpu.gguf.server FILE CONTEXT THREADS`.

It prints its address on loopback and serves until standard input closes. It is a separate process because llama.cpp
aborts where Python would raise.
"""

from __future__ import annotations

import sys

from gpu.runtime.parent import die_with_parent
from gpu.runtime.streams import prepare_streams


def serve(path: str, context: int, threads: int) -> None:
    """Load the file, print the address, and wait for the end of standard input. Raises RuntimeError."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx = context
    parameters.n_parallel = 1
    parameters.n_gpu_layers = 0  # the proof needs no speed, and a GPU may be training
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams.poll = 0  # threads that spin take the time of other processes
    parameters.warmup = False
    parameters.fit_params = False
    parameters.offline = True
    parameters.ui = False
    parameters.verbosity = 0
    parameters.use_jinja = True
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.buffer.read()


def main() -> None:
    """Serve the file on the command line."""
    prepare_streams()
    die_with_parent()
    path, context, threads = sys.argv[1:4]
    try:
        serve(path, int(context), int(threads))
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        sys.exit(f"llama.cpp cannot load the file: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
