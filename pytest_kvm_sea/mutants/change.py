# SPDX-License-Identifier: GPL-2.0-only
"""A change of the simulated host's code, in this process and for a while: the slip of a developer, as a diff shows it.

A function is changed in its source and gets the code that is compiled from it. It stays the same object, so that it
does not matter who has imported it, or which table it stands in.
"""

from __future__ import annotations
import __future__

import ast
import contextlib
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, TypeAlias

_PACKAGE = __name__.partition(".")[0]
_FLAGS = __future__.annotations.compiler_flag
_CHANGED: dict[FunctionType, str] = {}
"""The source of functions that are changed now, so that a second change of one adds to the first."""


class ChangeError(Exception):
    """A change that does not fit the code any more: the mutant has to be written anew."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Another text in one function."""

    where: str
    """Module and function: ``sim.kvm.vcpu:Vcpu._run``."""
    old: str
    """What stands in the function exactly once, which is indented as if it stood at the left margin."""
    new: str

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """While the context lasts, the function is the changed one. Raises ChangeError."""
        function = _function(self.where)
        original, before = function.__code__, _CHANGED.get(function)
        source = self._edited(before or textwrap.dedent(inspect.getsource(function)))
        function.__code__, _CHANGED[function] = self._code(function, source), source
        try:
            yield
        finally:
            function.__code__ = original
            del _CHANGED[function]
            if before is not None:
                _CHANGED[function] = before

    def _edited(self, source: str) -> str:
        if source.count(self.old) != 1:
            raise ChangeError(f"{self.where} has {self.old!r} {source.count(self.old)} times, and not once")
        return source.replace(self.old, self.new)

    def _code(self, function: FunctionType, source: str) -> CodeType:
        try:
            (definition,) = ast.parse(source).body
            return _compiled(function, definition)
        except SyntaxError as error:
            raise ChangeError(f"{self.where} with {self.new!r}: {error}") from None

    def __str__(self) -> str:
        removed = [f"- {line}" for line in self.old.splitlines()]
        return "\n".join([self.where, *removed, *(f"+ {line}" for line in self.new.splitlines())])


@dataclass(frozen=True, slots=True)
class Value:
    """Another value of a module's constant."""

    where: str
    """Module and name, in the module that uses it: ``sim.kvm.inject:_SCTLR2_NMEA``."""
    new: object

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """While the context lasts, the name has the other value. Raises ChangeError."""
        module_name, _, name = self.where.partition(":")
        module = _module(module_name)
        if name not in vars(module):
            raise ChangeError(f"{module_name} has no {name}")
        original = vars(module)[name]
        setattr(module, name, self.new)
        try:
            yield
        finally:
            setattr(module, name, original)

    def __str__(self) -> str:
        return f"{self.where}\n+ {self.where.partition(':')[2]} = {self.new!r}"


Change: TypeAlias = Edit | Value


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"{_PACKAGE}.{name}")
    except ModuleNotFoundError as error:
        raise ChangeError(str(error)) from None


def _function(where: str) -> FunctionType:
    """The function of a name; of a property that which reads it."""
    module_name, _, path = where.partition(":")
    found = _module(module_name)
    for name in path.split("."):
        found = inspect.getattr_static(found, name, None)
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, staticmethod | classmethod):
        found = found.__func__
    if not isinstance(found, FunctionType):
        raise ChangeError(f"{where} is no function")
    return found


def _compiled(function: FunctionType, definition: ast.stmt) -> CodeType:
    """The code of a definition, in place of that of a function: with its names from outside, and its own alone."""
    if not isinstance(definition, ast.FunctionDef):
        raise ChangeError(f"{function.__qualname__}: the change makes something else of the function")
    definition.decorator_list = []
    code = function.__code__
    ast.increment_lineno(definition, code.co_firstlineno - 1)
    # Where a function has names from outside (as the one that super() needs), so must the changed one.
    (outside,) = ast.parse(f"def outside({', '.join(code.co_freevars)}): pass").body
    assert isinstance(outside, ast.FunctionDef)
    outside.body = [definition]
    module = compile(ast.Module([outside], []), code.co_filename, "exec", flags=_FLAGS, dont_inherit=True)
    found = _nested(_nested(module, "outside"), function.__name__)
    if found.co_freevars != code.co_freevars:
        raise ChangeError(f"{function.__qualname__}: the change uses other names from outside: {found.co_freevars}")
    return found


def _nested(code: CodeType, name: str) -> CodeType:
    (found,) = (constant for constant in code.co_consts if isinstance(constant, CodeType) and constant.co_name == name)
    return found
