"""llama.cpp as an asyncio citizen: streams, can be cancelled, and never takes the process down."""

import asyncio
import http.client
import json
import os
import socket
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, assert_never

from runtime.errors import EngineError, EngineFault, EngineUnavailable, WorkerStartFailed
from runtime.models.gguf import read_header
from runtime.worker.completion import Chunk, Completed, Completion, Piece, joined, parse_chunk, to_error
from runtime.worker.spec import WorkerSpec

# Cancelling takes effect at the end of a batch of the prompt.
_BATCH_TOKENS = 512
_EMBEDDING_BATCH_TOKENS = 2_048
_SMALL_MODEL_BYTES = 600_000_000
_HTTP_TIMEOUT_S = 60.0

_PROOF = "[obeyed]"
_PROOF_TOKENS = 16
_GOOD_GRAMMAR = f'%llguidance {{}}\nstart: "{_PROOF}"'
_BAD_GRAMMAR = f'%llguidance {{}}\nstart: "{_PROOF}" nothing'


class LlamaServer:
    """One loaded model.

    Native code runs in one thread a slot; whoever calls `complete` sees to it
    that there are no more calls than slots.
    """

    def __init__(self, native: Any, *, socket_path: Path, slots: int) -> None:
        """Takes over a native server; `load` makes one."""
        self._native = native
        self._socket_path = socket_path
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="llama")
        self._calls: set[_Call] = set()
        self._closing = False

    @classmethod
    def load(cls, spec: WorkerSpec, directory: Path) -> Self:
        """Loads a model and proves that it obeys grammars. Blocks for seconds to minutes.

        Args:
            spec: the model and its share of the machine.
            directory: private to this process, short, and free of sockets; the
                native server listens there and nowhere else.

        Raises:
            ModelCorrupt: the file is no whole GGUF file.
            WorkerStartFailed: it is, but cannot be loaded, or grammars have no effect.
        """
        header = read_header(spec.model_path)
        context_tokens = min(spec.context_tokens, header.context_tokens or spec.context_tokens)
        socket_path = directory / "llama.sock"
        xllamacpp = _import_xllamacpp()
        params = xllamacpp.CommonParams()
        params.model.path = str(spec.model_path)
        params.verbosity = -1
        params.n_parallel = spec.slots
        params.n_ctx = spec.slots * context_tokens
        params.n_batch = _BATCH_TOKENS
        params.cache_ram_mib = spec.cache_mib
        params.fit_params = False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _threads(spec, header.size_bytes)
        # Its listener has no key: a Unix socket in a private directory needs none.
        params.hostnames = [str(socket_path)]
        params.endpoint_slots = False
        params.ui = False
        params.sse_ping_interval = -1
        if spec.embeddings:
            params.embedding = True
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
            params.n_batch = params.n_ubatch = min(_EMBEDDING_BATCH_TOKENS, context_tokens)
        try:
            native = xllamacpp.Server(params)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split()) or "no reason given"
            raise WorkerStartFailed(f"{spec.model_path} cannot be loaded: {reason}") from error
        server = cls(native, socket_path=socket_path, slots=spec.slots)
        server._prove()
        return server

    def ask(self, path: str, body: object | None = None) -> Any:
        """Asks the native server over its Unix socket: POST with a body, else GET. Blocks.

        Raises:
            EngineFault: it did not answer with JSON and 200.
        """
        connection = _UnixConnection(self._socket_path)
        try:
            if body is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
            if response.status != http.client.OK:
                raise EngineFault(f"llama.cpp answered {path} with {response.status}.")
            return json.loads(text)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EngineFault(f"llama.cpp did not answer {path}: {error}") from error
        finally:
            connection.close()

    async def complete(self, completion: Completion) -> AsyncGenerator[Chunk]:
        """Continues a prompt; a `Completed` for each sample comes last.

        Text that arrived while nobody read is given in one piece. However the
        generator ends, it has ended only when native code is done with the slot.

        Raises:
            EngineUnavailable: the server is closing.
            ContextExceeded, PromptRejected, EngineFault: native code says so.
        """
        if self._closing:
            raise EngineUnavailable("The worker is shutting down.")
        loop = asyncio.get_running_loop()
        call = _Call(self._native, completion.body(), loop)
        self._calls.add(call)
        thread = loop.run_in_executor(self._threads, call.run)
        unfinished = completion.samples
        try:
            while chunks := await call.arrived():
                for chunk in chunks:
                    yield chunk
                    if isinstance(chunk, Completed):
                        unfinished -= 1
                        if unfinished == 0:
                            return
            if self._closing:
                raise EngineUnavailable("The worker is shutting down.")
            raise EngineFault("llama.cpp ended a stream without saying why.")
        finally:
            call.cancel()
            await _finished(thread)
            self._calls.discard(call)

    async def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Returns a vector a text, and the tokens of all texts; takes a slot as `complete` does.

        Raises:
            PromptRejected: a text is too long.
            EngineFault: native code failed.
        """
        body: dict[str, object] = {"input": list(texts)}
        thread = asyncio.get_running_loop().run_in_executor(self._threads, self._embed, body)
        try:
            answer = await asyncio.shield(thread)
        finally:
            await _finished(thread)
        vectors = [item["embedding"] for item in sorted(answer["data"], key=lambda item: int(item["index"]))]
        return vectors, int(answer["usage"]["prompt_tokens"])

    async def aclose(self) -> None:
        """Cancels all completions, waits for native code, and frees the model."""
        self._closing = True
        for call in self._calls:
            call.cancel()
        await asyncio.to_thread(self._threads.shutdown)
        self._native = None

    def _embed(self, body: dict[str, object]) -> Any:
        try:
            answer = self._native.handle_embeddings(body)
        except (RuntimeError, ValueError) as error:
            raise EngineFault(f"llama.cpp failed: {error}") from error
        if "error" in answer:
            raise to_error(answer["error"])
        return answer

    def _prove(self) -> None:
        """Makes sure that the engine obeys grammars; pays for what the first token costs on the way.

        Raises:
            WorkerStartFailed: it does not obey, or says something new about a bad grammar.
        """
        obeyed = self._complete_now(_GOOD_GRAMMAR)
        if obeyed != _PROOF:
            raise WorkerStartFailed(
                f"llama.cpp does not obey grammars: it wrote {obeyed!r} where only {_PROOF!r} was allowed."
            )
        # What it does with one that does not compile is the reason why each is compiled here first.
        if self._complete_now(_BAD_GRAMMAR).startswith(_PROOF):
            raise WorkerStartFailed("llama.cpp and llguidance disagree on what compiles.")

    def _complete_now(self, grammar: str) -> str:
        """Continues a short prompt; blocks. An error that llama.cpp tells is no text."""
        ids = self.ask("/tokenize", {"content": "Hi", "add_special": True})["tokens"]
        completion = Completion(prompt=ids, max_tokens=_PROOF_TOKENS, grammar=grammar)
        texts: list[str] = []
        refusals: list[EngineError] = []

        def take(chunk: str) -> bool:
            try:
                texts.extend(piece.text for piece in parse_chunk(chunk) if isinstance(piece, Piece))
            except EngineError as error:
                refusals.append(error)
            return bool(refusals)

        self._native.handle_completions(completion.body(), take)
        return "".join(texts)


class _Call:
    """One call into native code, seen from its thread and from the event loop."""

    def __init__(self, native: Any, body: str, loop: asyncio.AbstractEventLoop | None) -> None:
        self._native = native
        self._body = body
        self._loop = loop
        self._items: asyncio.Queue[str | Exception | None] = asyncio.Queue()
        self._ended = False
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Ends the call at its next token, or batch of the prompt."""
        self._cancelled.set()

    def run(self) -> None:
        """Makes the call. In its thread; never raises."""
        try:
            if not self._cancelled.is_set():
                self._native.handle_completions(self._body, self._on_chunk)
        # Whatever the binding raises has to reach the reader, who would wait for ever.
        except Exception as error:  # noqa: BLE001
            self._hand_over(error)
        finally:
            self._hand_over(None)

    async def arrived(self) -> list[Chunk]:
        """Waits for chunks, and joins text that has waited; an empty list is the end.

        Raises:
            ContextExceeded, PromptRejected, EngineFault: native code says so.
        """
        chunks: list[Chunk] = []
        while not chunks and not self._ended:
            items = [await self._items.get()]
            while not self._items.empty():
                items.append(self._items.get_nowait())
            chunks = joined(chunk for item in items for chunk in self._read(item))
        return chunks

    def _read(self, item: str | Exception | None) -> Iterator[Chunk]:
        match item:
            case None:
                self._ended = True
            case Exception():
                raise EngineFault(f"llama.cpp failed: {item}") from item
            case str():
                yield from parse_chunk(item)
            case _:
                assert_never(item)

    def _on_chunk(self, chunk: str) -> bool:
        """Takes a chunk in the native thread; returns whether to stop."""
        try:
            self._hand_over(chunk)
            return self._cancelled.is_set()
        # The binding prints and ignores what is no Exception: generation would run on.
        except BaseException:  # noqa: BLE001
            return True

    def _hand_over(self, item: str | Exception | None) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:
            # The loop is closed: there is nobody left to read.
            self._cancelled.set()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_HTTP_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


async def _finished(thread: asyncio.Future[Any]) -> None:
    """Waits for a thread however often the waiting task is cancelled, and only then raises."""
    cancelled = False
    while not thread.done():
        try:
            await asyncio.wait({thread})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError


def _import_xllamacpp() -> Any:
    # Read when libgomp is loaded: threads that spin at barriers starve each other
    # when there are more of them than cores, 25 times slower and worse.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import xllamacpp
    except ImportError as error:
        hint = ""
        if "libgomp" in str(error):
            hint = " Install the GNU OpenMP library: apt install libgomp1, or dnf install libgomp."
        raise WorkerStartFailed(f"llama.cpp cannot be loaded: {error}.{hint}") from error
    return xllamacpp


def _threads(spec: WorkerSpec, size_bytes: int) -> int:
    """A small model is slower with two threads than with one: they wait for each other."""
    if spec.threads is not None:
        return spec.threads
    return 1 if size_bytes < _SMALL_MODEL_BYTES else len(os.sched_getaffinity(0))
