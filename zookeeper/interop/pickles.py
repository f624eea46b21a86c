"""Read a pickle as data: its opcodes are walked here, nothing it names is ever imported or called.

What comes out is plain: numbers, text, bytes, lists, tuples, dicts, sets, and whatever the caller's table of
constructors makes of the few names it admits. Any other name is refused, or (``stubs=True``) becomes an inert
`Stub` if the pickle only makes an instance of it; calling an unlisted function is refused always.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zookeeper.errors import InputError

MAX_OPCODES = 50_000_000
_MARK = object()
_CODE_MODULES = frozenset(
    [
        "os",
        "posix",
        "nt",
        "subprocess",
        "sys",
        "builtins",
        "__builtin__",
        "importlib",
        "runpy",
        "shutil",
        "socket",
        "pickle",
        "_pickle",
        "cPickle",
        "ctypes",
        "code",
        "codeop",
        "pty",
        "commands",
        "webbrowser",
        "timeit",
        "pdb",
        "pydoc",
        "operator",
        "_operator",
        "functools",
        "types",
        "marshal",
        "multiprocessing",
        "asyncio",
        "signal",
        "threading",
        "platform",
        "inspect",
    ]
)


@dataclass(frozen=True)
class Name:
    """A global a pickle names; nothing is looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class Stub:
    """An instance of a class that is not imported: its name, constructor arguments and attributes."""

    cls: Name
    args: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)


Constructors = Mapping[tuple[str, str], Callable[..., Any]]


def read_pickle(
    data: bytes | io.BytesIO,
    where: str,
    *,
    constructors: Constructors,
    on_persistent: Callable[[Any], Any] | None = None,
    stubs: bool = False,
) -> Any:
    """Read one pickle.

    Parameters
    ----------
    data
        The pickle; a stream is left behind its end.
    where
        What error messages call it.
    constructors
        Functions of ours that stand for the names (module, name) a pickle may call.
    on_persistent
        Turns a persistent id (a tensor's storage) into a value.
    stubs
        Whether instances of unlisted classes become a `Stub`.

    Raises
    ------
    InputError
        If the pickle names or calls what is not listed, or is damaged.

    Examples
    --------
    >>> import pickle
    >>> read_pickle(pickle.dumps({"a": [1, (2.5, None)]}), "x.pkl", constructors={})
    {'a': [1, (2.5, None)]}
    >>> read_pickle(pickle.dumps(print), "x.pkl", constructors={})
    Traceback (most recent call last):
    zookeeper.errors.InputError: x.pkl: the pickle names builtins.print, which is code and not data; refused. ...
    """
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    machine = _Machine(where, constructors, on_persistent, stubs)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MAX_OPCODES:
                raise InputError(f"{where}: a pickle of more than {MAX_OPCODES:,} steps; refused.")
            machine.step(opcode.name, argument)
        return machine.result()
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, UnicodeError, OverflowError) as error:
        raise InputError(f"{where}: not a whole pickle ({error}). Fetch the file again.") from error


class _Machine:
    """The stack machine of the pickle protocols 0 to 5, without the power to import or call."""

    def __init__(
        self,
        where: str,
        constructors: Constructors,
        on_persistent: Callable[[Any], Any] | None,
        stubs: bool,
    ) -> None:
        self._where = where
        self._constructors = constructors
        self._on_persistent = on_persistent
        self._stubs = stubs
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        if len(self._stack) != 1:
            raise ValueError(f"{len(self._stack)} values are left over")
        return self._stack[0]

    def step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _IGNORED:
            return
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _VALUES:
            stack.append(argument)
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[int(argument)])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[int(argument)] = self._top()
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._top()
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._since_mark()
        elif name == "DUP":
            stack.append(self._top())
        elif name in ("TUPLE", "LIST", "FROZENSET"):
            values = self._since_mark()
            if name == "FROZENSET":
                stack.append(frozenset(self._keys(values)))
            else:
                stack.append(tuple(values) if name == "TUPLE" else values)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack.append(tuple([self._pop() for _ in range(count)][::-1]))
        elif name == "DICT":
            stack.append(self._pairs(self._since_mark()))
        elif name in ("APPEND", "APPENDS"):
            items = [self._pop()] if name == "APPEND" else self._since_mark()
            self._extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [self._pop(), self._pop()][::-1] if name == "SETITEM" else self._since_mark()
            self._update(self._pairs(items))
        elif name == "ADDITEMS":
            items = self._since_mark()
            self._top_of(set).update(self._keys(items))
        elif name == "GLOBAL":
            module, _, attribute = str(argument).partition(" ")
            stack.append(self._admit(module, attribute))
        elif name == "STACK_GLOBAL":
            attribute, module = self._pop(), self._pop()
            if not isinstance(attribute, str) or not isinstance(module, str):
                raise InputError(f"{self._where}: the pickle computes a name instead of stating it; refused.")
            stack.append(self._admit(module, attribute))
        elif name == "REDUCE":
            arguments, function = self._pop(), self._pop()
            stack.append(self._call(function, arguments))
        elif name == "NEWOBJ":
            arguments, cls = self._pop(), self._pop()
            stack.append(self._make(cls, arguments))
        elif name == "BUILD":
            state = self._pop()
            self._build(self._top(), state)
        elif name in ("BINPERSID", "PERSID"):
            identity = self._pop() if name == "BINPERSID" else argument
            if self._on_persistent is None:
                raise InputError(f"{self._where}: the pickle refers to data outside it; refused.")
            stack.append(self._on_persistent(identity))
        else:
            raise InputError(f"{self._where}: the pickle uses {name}, which data does not need; refused.")

    def _top(self) -> Any:
        value = self._stack[-1]
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def _pop(self) -> Any:
        value = self._top()
        self._stack.pop()
        return value

    def _since_mark(self) -> list[Any]:
        items: list[Any] = []
        while (value := self._stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def _top_of(self, kind: type) -> Any:
        value = self._top()
        if not isinstance(value, kind):
            raise ValueError(f"a {type(value).__name__} where a {kind.__name__} should be")
        return value

    def _pairs(self, items: list[Any]) -> dict[Any, Any]:
        return dict(zip(self._keys(items[::2]), items[1::2], strict=True))

    def _keys(self, values: list[Any]) -> list[Any]:
        """Values to be hashed: plain ones or flat tuples, for a deeply nested tuple overflows the stack when hashed."""
        for value in values:
            for part in value if isinstance(value, tuple) else (value,):
                if not isinstance(part, _HASHABLE):
                    raise ValueError(f"a {type(part).__name__} as a key")
        return values

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Stub):
            target.items.extend(items)
        else:
            self._top_of(list).extend(items)

    def _update(self, pairs: dict[Any, Any]) -> None:
        target = self._top()
        if isinstance(target, Stub):
            target.items.extend(pairs.items())
        else:
            self._top_of(dict).update(pairs)

    def _admit(self, module: str, name: str) -> Name:
        listed = (module, name) in self._constructors
        if not listed and module.partition(".")[0] in _CODE_MODULES:
            raise self._refused(f"names {module}.{name}")
        if not listed and not self._stubs:
            raise InputError(
                f"{self._where}: the pickle names {module}.{name}; expected tensors and plain containers only. "
                "Save a state_dict instead of a whole object."
            )
        return Name(module, name)

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise self._refused(f"calls a {type(function).__name__}")
        if function == Name("copy_reg", "_reconstructor") or function == Name("copyreg", "_reconstructor"):
            return self._make(arguments[0], ())
        constructor = self._constructors.get((function.module, function.name))
        if constructor is None:
            raise self._refused(f"calls {function}")
        return constructor(*arguments)

    def _make(self, cls: Any, arguments: Any) -> Any:
        if not isinstance(cls, Name) or not isinstance(arguments, tuple):
            raise self._refused("makes an instance of something computed")
        constructor = self._constructors.get((cls.module, cls.name))
        return Stub(cls, arguments) if constructor is None else constructor(*arguments)

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(target, Stub):
            parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
            for part in parts:
                if isinstance(part, dict):
                    target.state.update(part)
        elif hasattr(target, "set_pickled_state"):
            target.set_pickled_state(state)
        elif not isinstance(target, dict):  # an OrderedDict's attributes (torch keeps metadata there) are not needed
            raise self._refused(f"sets attributes of a {type(target).__name__}")

    def _refused(self, what: str) -> InputError:
        return InputError(
            f"{self._where}: the pickle {what}, which is code and not data; refused. Do not open this file elsewhere."
        )


_HASHABLE = (str, bytes, int, float, bool, type(None), Name)
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_VALUES = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    ]
)
