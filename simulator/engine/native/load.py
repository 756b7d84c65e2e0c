"""The compiled engine of this process: the one that was built at installation, one of the user's, or one made now.

Loading needs no compiler: a linked library goes through the system's loader. Where nothing links or a library does not
load, the object stays as it is and llvmlite loads it. An object that is damaged, of other sources or of another
compiler is passed over and made anew, which needs numba.
"""

import ctypes
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Final

from cluster_specs.errors import OutputError, UserError
from cluster_specs.files.lock import locked
from simulator.engine.native import objects
from simulator.engine.native.abi import ENTRIES, Entry, symbol

Functions = Mapping[Entry, Callable[[int, int], int]]

# Lets other threads run meanwhile.
_CALL: Final = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)


class EngineObjectError(UserError):
    """There is no compiled engine for this machine, and no compiler to make one."""

    exit_code = 1


class EngineCode:
    """The compiled engine, loaded when first asked for, and whoever is to be told that this takes a compilation."""

    def __init__(self, bundled: Path, compile_object: Callable[[], bytes]) -> None:
        self._bundled = bundled
        self._compile_object = compile_object
        self._lock = Lock()
        self._functions: Functions | None = None
        self._say: list[Callable[[], None]] = []

    def functions(self) -> Functions:
        """C functions of all entries, each of the addresses of a state and of step tables.

        Raises ``EngineObjectError`` where there are none and nothing to make them with.
        """
        with self._lock:
            if self._functions is None:
                self._functions = self._load()
            return self._functions

    def on_compilation(self, say: Callable[[], None]) -> None:
        """Call ``say`` if the engine has to be compiled, which takes seconds in which nothing else is seen."""
        self._say.append(say)

    def _load(self) -> Functions:
        sources = objects.source_key()
        path = objects.find(self._bundled, sources, objects.LIBRARY)
        reason = f"none was built for {objects.target()} from these sources"
        if path is not None:
            try:
                return _library(path)
            except OSError as error:
                reason = str(error)
        if importlib.util.find_spec("numba") is None:
            raise EngineObjectError(
                f"{self._bundled}: no compiled engine can be loaded ({reason}), and numba, which compiles it, "
                "is not installed",
                hint="install apex-planner anew, which compiles the engine, or let it be compiled at first use: "
                "pip install 'apex-planner[jit]'",
            )
        key = objects.compiler_key(sources, _compiler())
        try:
            folder = objects.user_folder()
            with locked(folder / ".lock", wait=True):
                return _kept(folder, key) or self._make(folder, key)
        except OutputError as error:
            warnings.warn(
                f"the compiled engine cannot be kept and is compiled anew, seconds each time: {error}; {error.hint}",
                RuntimeWarning,
                stacklevel=2,
            )
            return in_memory(self._compile())

    def _make(self, folder: Path, key: str) -> Functions:
        """Compile, keep and load; an object where there is no linker, or its library does not load."""
        from simulator.engine.native.linker import LinkError, link

        content = self._compile()
        objects.drop_old(folder)
        try:
            return _library(objects.keep(folder, key, link(content), objects.LIBRARY))
        except (LinkError, OSError):
            objects.keep(folder, key, content, objects.OBJECT)
            return in_memory(content)

    def _compile(self) -> bytes:
        for say in self._say:
            say()
        return self._compile_object()


def compiled_object() -> bytes:
    """Compile the engine with numba, which is imported for it; raises ``EngineObjectError`` where it is told not to."""
    import numba

    from simulator.engine.native.compiler import compile_engine

    if numba.config.DISABLE_JIT:
        raise EngineObjectError(
            "NUMBA_DISABLE_JIT is set, and the engine has to be compiled",
            hint="unset it; simulator.engine.policies.interpreted runs an engine as Python",
        )

    return compile_engine()


def built_engine() -> Path:
    """Library of the engine beside the package, compiled if it is not there; raises ``LinkError``.

    Libraries of other sources go.
    """
    from simulator.engine.native.linker import link, linker_command

    folder, key = objects.BUNDLED, objects.source_key()
    path = objects.find(folder, key, objects.LIBRARY)
    if path is None:
        linker_command()  # find out before the work is done
        path = objects.keep(folder, key, link(compiled_object()), objects.LIBRARY)
    objects.drop_others(path)
    return path


def _kept(folder: Path, key: str) -> Functions | None:
    """Load what ``folder`` keeps of ``key``."""
    library = objects.find(folder, key, objects.LIBRARY)
    if library is not None:
        try:
            return _library(library)
        except OSError:  # a folder that may hold no programs: an object is kept there instead
            pass
    path = objects.find(folder, key, objects.OBJECT)
    return None if path is None else in_memory(path.read_bytes())


def _library(path: Path) -> Functions:
    """Load a linked library; raises ``OSError``."""
    library = ctypes.CDLL(str(path))
    return {entry: _CALL((symbol(entry), library)) for entry in ENTRIES}


def in_memory(content: bytes) -> Functions:
    """Load an object that is not linked."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(reloc="pic")
    # Its memory manager keeps code and constants in one piece: LLVM's own may lay them further apart than calls reach
    # where much is loaded already, and then ends the process.
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine, use_lmm=True)
    engine.add_object_file(binding.ObjectFileRef.from_data(content))
    engine.finalize_object()
    functions: dict[Entry, Any] = {entry: _CALL(engine.get_function_address(symbol(entry))) for entry in ENTRIES}
    for function in functions.values():
        function.owner = engine  # the code lives as long as one of its functions
    return functions


def _compiler() -> str:
    """Versions that decide what code comes out."""
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("numba", "llvmlite"))


ENGINE_CODE: Final = EngineCode(objects.BUNDLED, compiled_object)
