"""Compile the engine: every kernel that an entry reaches, once, into one object without a reference to anything.

numba translates each kernel from its annotations, those it calls first; nothing is optimised or made executable on
the way. All of them are then one LLVM module in which only the entries can be seen from outside, and that is optimised
once. An entry is exported as a C function of two pointers, to a state and to step tables. The code is for any processor
of the architecture: what newer ones add makes it no faster (docs/decisions/0121-the-engine-as-object-code.md).
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import compiler, typed_passes, untyped_passes
from numba.core.codegen import AOTCodeLibrary, AOTCPUCodegen
from numba.core.compiler_machinery import PassManager
from numba.core.registry import cpu_target
from numba.core.typing.templates import make_concrete_template, signature

from simulator.engine.entries import KERNELS
from simulator.engine.kernel import is_kernel
from simulator.engine.native.abi import FAILED, symbol
from simulator.engine.native.rows import look_ups, type_of

_INT64: Final = ir.IntType(64)
_STATUS: Final = ir.IntType(32)
_POINTER: Final = ir.IntType(8).as_pointer()
# What kernels are made of needs no more; each pass left out is time for every one of them.
_PASSES: Final = (
    untyped_passes.TranslateByteCode,
    untyped_passes.FixupArgs,
    untyped_passes.IRProcessing,
    untyped_passes.ReconstructSSA,
    typed_passes.NopythonTypeInference,
    typed_passes.PreLowerStripPhis,
    typed_passes.NoPythonSupportedFeatureValidation,
    typed_passes.IRLegalization,
    typed_passes.NativeLowering,
    typed_passes.NoPythonBackend,
)


@cache
def compile_engine() -> bytes:
    """Compile all entries into one object file of this platform; numba keeps what it knows of them, so only once."""
    kernels = _Kernels()
    exports = ir.Module("exports")
    exports.triple = llvm.get_process_triple()
    names = set()
    for entry, kernel in KERNELS.items():
        name = symbol(entry)
        _export(exports, name, kernels.compile(kernel).fndesc.llvm_func_name)
        names.add(name)
    return kernels.codegen.object_of(kernels.libraries(), exports, frozenset(names))


def _export(module: ir.Module, name: str, compiled: str) -> None:
    """Add the C function ``name``: it returns what the function ``compiled`` returns, or FAILED."""
    shape = ir.FunctionType(_STATUS, [_INT64.as_pointer(), _POINTER.as_pointer(), _POINTER, _POINTER])
    inner = ir.Function(module, shape, compiled)
    function = ir.Function(module, ir.FunctionType(_INT64, [_POINTER, _POINTER]), name)
    builder = ir.IRBuilder(function.append_basic_block())
    result, error = builder.alloca(_INT64), builder.alloca(_POINTER)
    status = builder.call(inner, [result, error, *function.args])
    is_good = builder.icmp_signed("==", status, _STATUS(0))
    builder.ret(builder.select(is_good, builder.load(result), _INT64(FAILED)))


class _Library(AOTCodeLibrary):
    """The code of one kernel, left as numba translated it."""

    def _optimize_functions(self, ll_module: Any) -> None:
        """Optimise nothing: all kernels are optimised together."""

    def finalize(self) -> None:
        """Link nothing: all kernels are linked at once."""
        self._finalized = True


class _Codegen(AOTCPUCodegen):
    _library_class = _Library

    def _customize_tm_options(self, options: dict[str, Any]) -> None:
        super()._customize_tm_options(options)
        options["cpu"] = ""  # any processor of this architecture

    def object_of(self, libraries: list[Any], exports: ir.Module, names: frozenset[str]) -> bytes:
        """Link and optimise ``libraries``; of the result ``names`` are seen from outside."""
        module = llvm.parse_assembly(str(exports))
        for library in libraries:
            module.link_in(library._final_module, preserve=True)  # noqa: SLF001 - it has no other way to its module
        for value in (*module.functions, *module.global_variables):
            if not value.is_declaration:
                value.linkage = "external" if value.name in names else "internal"
        builder = llvm.create_pass_builder(self._tm, llvm.create_pipeline_tuning_options(speed_level=3))
        builder.getModulePassManager().run(module, builder)
        missing = sorted(
            one.name for one in module.functions if one.is_declaration and not one.name.startswith("llvm.")
        )
        if missing:
            raise AssertionError(f"the engine calls {', '.join(missing)}, which an object of its own does not have")
        return bytes(self._tm.emit_object(module))


class _Pipeline(compiler.CompilerBase):
    """The passes of a kernel."""

    def define_pipelines(self) -> list[PassManager]:
        """Return the only pipeline."""
        manager = PassManager("kernel")
        for each in _PASSES:
            manager.add_pass(each, each.__name__)
        manager.finalize()
        return [manager]


class _Kernels:
    """Kernels compiled so far."""

    def __init__(self) -> None:
        self.codegen = _Codegen("engine")
        self._typing = cpu_target.typing_context
        self._target = cpu_target.target_context.subtarget(_internal_codegen=self.codegen, aot_mode=True)
        self._flags = compiler.Flags()
        self._flags.no_compile = True
        self._flags.no_cpython_wrapper = True
        self._flags.no_cfunc_wrapper = True
        self.compiled: dict[object, Any] = {}
        self._declared: set[object] = set()

    def compile(self, function: Callable[..., Any]) -> Any:
        """Compile ``function`` after the kernels it calls."""
        known = self.compiled.get(function)
        if known is not None:
            return known
        for value in _globals_of(function):
            if is_kernel(value):
                self.compile(value)
            else:
                self._declare(value)
        hints = dict(function.__annotations__)
        returns = type_of(hints.pop("return"))
        arguments = tuple(type_of(hint) for hint in hints.values())
        result = compiler.compile_extra(
            self._typing, self._target, function, arguments, returns, self._flags, {}, pipeline_class=_Pipeline
        )
        self._insert(function, [signature(returns, *arguments)])
        self._target.insert_user_function(function, result.fndesc, [result.library])
        self.compiled[function] = result
        return result

    def _declare(self, value: object) -> None:
        """Tell the compiler of a look-up, if ``value`` is one."""
        found = list(look_ups(value))
        if found and value not in self._declared:
            self._insert(value, [one for one, _ in found])
            self._target.insert_func_defn([(generate, value, one.args) for one, generate in found])
            self._declared.add(value)

    def libraries(self) -> list[Any]:
        """Code of all kernels, and what numba has in its own library for the built-in functions they call."""
        found: dict[int, Any] = {}
        left = [result.library for result in self.compiled.values()]
        while left:
            library = left.pop()
            if id(library) not in found:
                found[id(library)] = library
                left += library._linking_libraries  # noqa: SLF001 - as below
        return list(found.values())

    def _insert(self, function: object, signatures: list[Any]) -> None:
        self._typing.insert_user_function(function, make_concrete_template(str(function), function, signatures))


def _globals_of(function: Callable[..., Any]) -> Iterator[Any]:
    """Values of the names that ``function`` takes from its module, in the order of the names."""
    for name in sorted(function.__code__.co_names):
        if name in function.__globals__:
            yield function.__globals__[name]
