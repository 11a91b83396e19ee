"""llama.cpp as a contender of generate.py: by itself, or with half of its weights on a second process over RPC."""

from __future__ import annotations

import argparse
import ctypes
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from text_turns import Turn, prompt_of, take_turns

OFFLOADED = 12
"""Of SmolLM2's 30 layers and its head, the last ones, which are half of its weights: the head is as large as eight
layers."""
SERVE = """
import ctypes, llama_cpp, sys
from pathlib import Path
folder = Path(llama_cpp.__file__).parent / "lib"
base, rpc = (ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL) for name in ("libggml.so.0", "libggml-rpc.so.0"))
base.ggml_backend_dev_by_type.restype = ctypes.c_void_p
device = ctypes.c_void_p(base.ggml_backend_dev_by_type(0))
rpc.ggml_backend_rpc_start_server.argtypes = [
    ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p)
]
rpc.ggml_backend_rpc_start_server(sys.argv[1].encode(), None, 1, 1, ctypes.pointer(device))
"""


class LlamaCpp:
    """A GGUF file, one thread a process."""

    def __init__(self, file: Path, *, offloaded: int = 0) -> None:
        """`offloaded`: the last layers, the head included, that are on the RPC server."""
        import llama_cpp as lib

        self._lib = lib
        lib.llama_backend_init()
        self._silent = lib.llama_log_callback(lambda *_: None)
        lib.llama_log_set(self._silent, None)
        wanted = lib.llama_model_default_params()
        wanted.n_gpu_layers = offloaded
        self._model = lib.llama_model_load_from_file(str(file).encode(), wanted)
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {file}")

    def close(self) -> None:
        self._lib.llama_model_free(self._model)

    def rate(self, turn: Turn) -> float:
        """Tokens a second of decoding, or of the prompt where there are none to decode. All streams are one batch."""
        lib, streams, prompt, tokens = self._lib, turn.streams, turn.prompt, turn.tokens
        wanted = lib.llama_context_default_params()
        most = max(prompt, streams)
        wanted.n_ctx, wanted.n_batch, wanted.n_seq_max = streams * (prompt + tokens + 32), most, streams
        wanted.n_threads = wanted.n_threads_batch = 1
        context = lib.llama_init_from_model(self._model, wanted)
        batch = lib.llama_batch_init(most, 0, 1)
        step = _stepper(lib, context, batch)
        step([(token, 0, 0, True) for token in prompt_of(1, 7)])
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        prompts_s = sum(
            step([(token, at, stream, at == prompt - 1) for at, token in enumerate(prompt_of(prompt, stream))])
            for stream in range(streams)
        )
        steps_s = sum(
            step([(prompt_of(1, at + stream)[0], prompt + at, stream, True) for stream in range(streams)])
            for at in range(tokens)
        )
        lib.llama_batch_free(batch)
        lib.llama_free(context)
        return streams * tokens / steps_s if tokens else streams * prompt / prompts_s


def _stepper(lib: Any, context: Any, batch: Any) -> Callable[[list[tuple[int, int, int, bool]]], float]:
    def step(rows: list[tuple[int, int, int, bool]]) -> float:
        """Of tokens at positions of streams, and whether their scores are wanted; returns seconds."""
        batch.n_tokens = len(rows)
        for place, (token, position, stream, scored) in enumerate(rows):
            batch.token[place], batch.pos[place], batch.logits[place] = token, position, scored
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, stream
        begin = time.perf_counter()
        if lib.llama_decode(context, batch):
            raise SystemExit("llama.cpp cannot decode this batch")
        lib.llama_synchronize(context)
        return time.perf_counter() - begin

    return step


@contextmanager
def rpc_server() -> Iterator[None]:
    """A second process of one thread, known to llama.cpp in this one from now on."""
    import llama_cpp

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen([sys.executable, "-c", SERVE, endpoint], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        _await_listener(endpoint, process)
        folder = Path(llama_cpp.__file__).parent / "lib"
        base, rpc = (
            ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL) for name in ("libggml.so.0", "libggml-rpc.so.0")
        )
        rpc.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
        server = rpc.ggml_backend_rpc_add_server(endpoint.encode())
        base.ggml_backend_register(ctypes.c_void_p(server))
        yield
    finally:
        process.kill()
        process.wait()


def _await_listener(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    host, _, port = endpoint.rpartition(":")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("llama.cpp's RPC server does not listen")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--rpc", action="store_true")
    chosen = parser.parse_args()
    with rpc_server() if chosen.rpc else nullcontext():
        model = LlamaCpp(chosen.file, offloaded=OFFLOADED if chosen.rpc else 0)
        take_turns(model.rate)
        model.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
