"""Weight files that no one would write for good: each is made by a line of code that says how.

`CASES` maps a name to the bytes of a file. An attack that runs makes the file `ran` in the working
directory. All must be refused but those in `HARMLESS`, which load.
"""

from __future__ import annotations

import gzip
import io
import pickle
import pickletools
import struct
import zipfile

import numpy as np

SENTINEL = "ran"
TWO, FOUR = b"\x80\x02", b"\x80\x04"
COMMAND = f"touch {SENTINEL}".encode()


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    return b"J" + struct.pack("<i", value)


def called(name):
    """Return the pickle of a global by protocol 2's GLOBAL."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def stacked(name):
    module, _, attribute = name.rpartition(".")
    return text(module) + text(attribute) + b"\x93"


def file_with(value, header=TWO):
    """Return a file that holds the pickled value under the name w."""
    return header + b"}" + text("w") + value + b"s."


SYSTEM = called("posix.system")
DOUBLED = b"q\x00h\x00\x86" * 60  # a tuple of the value on top, twice, 60 times over
RUN = text(COMMAND) + b"\x85R"  # one argument, then REDUCE


def array(shape, content, dtype="f4", state=None, fortran=b"\x89", version=b"K\x01"):
    """Return the pickle of an array from its parts, each of which may be wrong."""
    made = called("numpy.core.multiarray._reconstruct") + called("numpy.ndarray")
    made += b"K\x00\x85C\x01b\x87R"
    kind = called("numpy.dtype") + (text(dtype) if isinstance(dtype, str) else dtype)
    kind += b"\x89\x88\x87R"
    if state is None:
        state = b"(K\x03" + text("<") + b"NNN" + number(-1) + number(-1) + b"K\x00t"
    dims = shape if isinstance(shape, bytes) else b"(" + b"".join(map(long, shape)) + b"t"
    return made + b"(" + version + dims + kind + state + b"b" + fortran + content + b"tb"


def long(value):
    data = value.to_bytes(20, "little", signed=True)
    return b"\x8a\x14" + data


def content(data):
    return b"B" + struct.pack("<I", len(data)) + data


EIGHT = content(b"\0" * 8)


def attacks():
    """Return a call of the system by every opcode that can import, make or call something."""
    yield "global", file_with(SYSTEM + RUN)
    yield "stack_global", file_with(stacked("posix.system") + RUN, FOUR)
    yield "os.system", file_with(called("os.system") + RUN)
    yield "inst", file_with(b"(" + text(COMMAND) + b"iposix\nsystem\n")
    yield "obj", file_with(b"(" + SYSTEM + text(COMMAND) + b"o")
    yield "newobj", file_with(called("subprocess.Popen") + text(COMMAND) + b"\x85\x81")
    yield "newobj_ex", file_with(called("subprocess.Popen") + text(COMMAND) + b"\x85}\x92", FOUR)
    yield "ext1", file_with(b"\x82\x01" + RUN)
    yield "ext2", file_with(b"\x83\x01\x01" + RUN)
    yield "ext4", file_with(b"\x84\x01\x01\x01\x01" + RUN)
    yield (
        "extension registry",
        file_with(called("copyreg.add_extension") + text("posix") + text("system") + b"K\x01\x87R"),
    )
    yield "persid", file_with(b"Pposix.system\n")
    yield "binpersid", file_with(text("posix.system") + b"Q")
    for name in ("eval", "exec", "getattr", "open", "__import__", "globals", "breakpoint"):
        yield f"builtins.{name}", file_with(called(f"builtins.{name}") + RUN)
        yield f"__builtin__.{name}", file_with(called(f"__builtin__.{name}") + RUN)
    for name in (
        *("subprocess.Popen", "runpy._run_code", "pickle.loads", "_pickle.loads", "marshal.loads"),
        *("numpy.load", "numpy.testing._private.utils.runstring", "torch.load", "paddle.load"),
        *("codecs.encode", "_codecs.decode", "operator.attrgetter", "functools.partial"),
        *("importlib.import_module", "ctypes.CDLL", "shutil.rmtree", "webbrowser.open"),
        *("copyreg._reconstructor", "types.CodeType", "timeit.timeit", "pdb.run"),
        *("paddle.base.core.eager.Tensor", "collections.OrderedDict.fromkeys", "builtins.dict"),
    ):
        yield name, file_with(called(name) + RUN)
    yield "dotted name", file_with(stacked("numpy.ndarray.__init__") + RUN, FOUR)
    yield "name within a module", file_with(text("numpy") + text("f2py.os.system") + b"\x93" + RUN)
    yield "import of lines", file_with(b"cposix\nsystem" + b"x" * 100_000 + b"\n" + RUN)
    yield "import that breaks the line", file_with(text("a\nb\x1b[2J") + text("c") + b"\x93" + RUN)
    yield "import of a number", file_with(b"K\x01K\x02\x93" + RUN)
    yield (
        "memo swap",
        file_with(called("numpy.ndarray") + b"q\x000" + SYSTEM + b"q\x000h\x00" + RUN),
    )
    yield "attack before the weights", TWO + SYSTEM + RUN + b"0" + file_with(b"K\x01")[2:]
    yield "attack after the weights", file_with(b"K\x01")[:-1] + SYSTEM + RUN + b"0."
    yield "second pickle", file_with(array([2], EIGHT)) + file_with(SYSTEM + RUN)
    yield "attack as a key", TWO + b"}" + SYSTEM + RUN + b"K\x01s."
    yield (
        "function with state",
        file_with(
            called("numpy.core.multiarray._reconstruct")
            + b"N}"
            + text("__defaults__")
            + b"K\x01s\x86b"
        ),
    )
    yield "array with a dict of state", file_with(array([2], EIGHT) + b"}" + text("a") + b"K\x01sb")
    yield "slots state", file_with(called("numpy.dtype") + text("f4") + b"\x85RN}" + b"\x86b")
    yield "dict with state", file_with(b"}" + b"}" + text("__class__") + SYSTEM + b"sb")
    yield "call of a call", file_with(called("builtins.tuple") + b")R" + RUN)
    yield "call without a tuple", file_with(called("builtins.bytes") + b"]R")
    yield "call of too much", file_with(called("builtins.bytes") + b"K\x01K\x01\x86R")
    yield (
        "array of another class",
        file_with(
            called("numpy.core.multiarray._reconstruct")
            + called("numpy.dtype")
            + b"K\x00\x85C\x01b\x87R"
        ),
    )
    yield "array made by its class", file_with(called("numpy.ndarray") + long(1 << 40) + b"\x85R")


def bombs():
    """Return files of a few bytes, or some kilobytes, that ask for all there is."""
    huge = struct.pack("<Q", 1 << 50)
    for code, length in (
        *(("T", b"\xff\xff\xff\x7f"), ("T", b"\xff\xff\xff\xff"), ("X", b"\xff\xff\xff\xff")),
        *(("B", b"\xff\xff\xff\xff"), ("\x8b", b"\xff\xff\xff\x7f"), ("\x8d", huge)),
        *(("\x8e", huge), ("\x95", huge), ("\x96", huge), ("\x8a", b"\xff"), ("r", b"\xff" * 4)),
    ):
        name = f"length {length.hex()} of {code.encode('latin1').hex()}"
        yield name, file_with(code.encode("latin1") + length + b"x", FOUR)
    # Python's own unpickler makes room for, and clears, 2 * 2**27 places.
    yield "memo index", file_with(b"Nr\x00\x00\x00\x08")
    yield "text memo index", file_with(b"Np134217728\n")
    yield "tuple key that doubles", TWO + b"}" + b"N" + b"q\x00h\x00\x86" * 60 + b"Ns."
    yield "deep tuple key", TWO + b"}" + b")" + b"\x85" * 200_000 + b"Ns."
    yield "frozenset that doubles", FOUR + b"}" + b"(" + b"K\x01(\x91" * 1000 + b"Ns."
    yield (
        "keys that collide",
        TWO
        + b"}("
        + b"".join(
            b"\x8a\x0a" + (n * ((1 << 61) - 1)).to_bytes(10, "little") + b"N" for n in range(60_000)
        )
        + b"u.",
    )
    yield "tuples that double", file_with(b"N" + DOUBLED)
    yield "tuples that double for a dtype", file_with(array((2,), EIGHT, b"N" + DOUBLED))
    yield "tuples that double for a shape", file_with(array(b")" + DOUBLED, EIGHT))
    yield "tuples that double for a state", file_with(called("numpy.dtype") + b"N" + DOUBLED + b"b")
    shared: list[object] = [1.0]
    table: dict[str, object] = {"a": 1.0}
    for _ in range(60):
        shared, table = [shared, shared], {"a": table, "b": table}
    yield "lists that double", pickle.dumps({"w": shared}, protocol=4)
    yield "dicts that double", pickle.dumps({"w": table}, protocol=2)
    yield "deep list", file_with(b"]" * 200_000 + b"a" * 199_999)
    yield "deep marks", file_with(b"(" * 200_000)
    yield (
        "deep dicts",
        file_with(b"".join(b"}" + text("a") for _ in range(30_000)) + b"N" + b"s" * 30_000),
    )
    yield "list within itself", file_with(b"]q\x00h\x00a")
    yield "dict within itself", file_with(b"}q\x00" + text("a") + b"h\x00s")
    yield "table within itself", TWO + b"}q\x00" + text("w") + b"h\x00s."
    yield "many dicts", file_with(b"(" + b"}" * 1_000_000 + b"t")
    first = text("a") + array([15_000], content(b"\0" * 60_000) + b"q\x00")
    others = b"".join(text(f"w{n}") + array([15_000], b"h\x00") for n in range(5000))
    yield "one content for many arrays", TWO + b"}(" + first + others + b"u."
    words = b"(" + text("x" * 60_000) + b"q\x00"
    encoded = called("_codecs.encode") + b"h\x00" + text("latin1") + b"\x86R"
    yield "one text for many contents", file_with(words + encoded * 10_000 + b"t")
    made = called("builtins.tuple") + b"h\x00\x85R"
    yield "text made a tuple", file_with(words + made * 10_000 + b"t")
    yield (
        "list made a dict",
        file_with(called("collections.OrderedDict") + b"](" + b"]K\x01a" * 2000 + b"e\x85R"),
    )
    yield "long integer", file_with(b"\x8b" + struct.pack("<i", 4_000_000) + b"\x7f" * 4_000_000)
    yield "text integer", file_with(b"L" + b"9" * 100_000 + b"L\n")
    yield "wide text", file_with(text("\U0001f600" + "x" * 60_000))
    yield "long text", file_with(text("x" * 3_000_000))


def arrays():
    """Return arrays that numpy's own __setstate__ should never be shown."""
    for name, shape in {
        "negative shape": (-2,),
        "shape of opposites": (-2, -1),
        "product that overflows": (1 << 32, 1 << 32),
        "product that overflows to two": ((1 << 63) + 1, 2),
        "a dimension beyond 64 bits": (1 << 100,),
        "empty beyond 64 bits": (0, 1 << 62, 1 << 62),
        "too few contents": (3,),
        "too many contents": (1,),
        "more dimensions than Paddle has": (1,) * 10 + (2,),
        "more dimensions than numpy has": (1,) * 100 + (2,),
        "no shape for two": (),
    }.items():
        yield name, file_with(array(shape, EIGHT))
    for dtype in ("O", "O8", "S4", "U1", "V8", "M8[s]", "m8", "f16", "c32", "f3", "", "i4,i4"):
        yield f"dtype {dtype}", file_with(array((1,), EIGHT, dtype))
    fields = b"K\x03" + text("<")
    yield (
        "dtype that is a list",
        file_with(array((1,), EIGHT, b"](" + text("a") + text("O") + b"\x86e")),
    )
    yield "dtype that is a number", file_with(array((2,), EIGHT, b"K\x04"))
    yield (
        "dtype with names",
        file_with(array((2,), EIGHT, state=b"(" + fields + b"N" + text("a") + b"\x85}t")),
    )
    yield (
        "dtype with a subarray",
        file_with(array((2,), EIGHT, state=b"(" + fields + b"K\x01\x85NNt")),
    )
    yield (
        "dtype with a wrong order",
        file_with(array((2,), EIGHT, state=b"(K\x03" + text("?") + b"NNNt")),
    )
    yield "dtype with short state", file_with(array((2,), EIGHT, state=b"(K\x03t"))
    yield "dtype with a dict of state", file_with(array((2,), EIGHT, state=b"}"))
    yield "shape of floats", file_with(array(b"G" + b"\0" * 8 + b"\x85", EIGHT))
    yield "shape of bools", file_with(array(b"\x88\x88\x86", EIGHT))
    yield "shape that is a list", file_with(array(b"]K\x02a", EIGHT))
    yield "contents that are a list", file_with(array((2,), b"]K\x01aK\x02a"))
    yield "contents that are a number", file_with(array((2,), b"K\x08"))
    yield "contents beyond latin1", file_with(array((1,), text("Ā" * 4)))
    yield (
        "array without state",
        file_with(
            called("numpy.core.multiarray._reconstruct")
            + called("numpy.ndarray")
            + b"K\x00\x85C\x01b\x87R"
        ),
    )
    yield "object array", pickle.dumps({"w": np.array([print])}, protocol=4)
    yield "structured array", pickle.dumps({"w": np.zeros(2, "i4,f4")}, protocol=4)
    yield "text array", pickle.dumps({"w": np.array(["x"])}, protocol=2)
    yield "dates", pickle.dumps({"w": np.zeros(2, "M8[s]")}, protocol=3)
    yield "array of protocol 5", pickle.dumps({"w": np.zeros(200)}, protocol=5)


def tables():
    """Return tables whose names or values no weights have."""
    one = array([2], EIGHT)
    yield "a name twice", TWO + b"}(" + text("w") + one + text("w") + one + b"u."
    yield "true and one", TWO + b"}(K\x01" + one + b"\x88" + one + b"u."
    yield "bytes for a name", FOUR + b"}C\x01w" + one + b"s."
    yield "a float for a name", TWO + b"}G" + b"\0" * 8 + one + b"s."
    yield "nothing for a name", TWO + b"}N" + one + b"s."
    yield "a tuple for a name", TWO + b"}K\x01\x85" + one + b"s."
    yield "a huge integer for a name", TWO + b"}" + b"\x8a\xff" + b"\x7f" * 255 + one + b"s."
    yield "two lines for a name", TWO + b"}" + text("a\nb") + one + b"s."
    yield "a terminal's command for a name", TWO + b"}" + text("\x1b]0;x\x07") + one + b"s."
    yield "half a character for a name", TWO + b"}" + text(b"\xed\xa0\x80") + one + b"s."
    yield "an overlong name", TWO + b"}" + text("w" * 70_000) + one + b"s."
    yield "a list", TWO + b"]."
    yield "a number", TWO + b"K\x01."
    yield "a set", pickle.dumps({"w": {1, 2}}, protocol=4)
    yield "bytes", pickle.dumps({"w": b"abc"}, protocol=4)
    yield "bytes of protocol 2", pickle.dumps({"w": b"abc"}, protocol=2)
    yield "a complex number", pickle.dumps({"w": 1j}, protocol=4)
    yield "an array of bytes", pickle.dumps({"w": bytearray(9)}, protocol=4)
    yield "a function", TWO + b"}" + text("w") + called("numpy.dtype") + b"s."
    yield "a dtype", pickle.dumps({"w": np.dtype("f4")}, protocol=4)
    yield "a table of names that is none", TWO + b"}" + text("UnpackBigParamInfor@@") + b"K\x01s."


def broken():
    """Return what is no pickle of protocol 2 to 4, or not to its end."""
    genuine = {"w": np.arange(8, dtype="float32"), "b": np.array(1.0, "float32")}
    yield "nothing", b""
    yield "text", b"weights"
    yield "zeros", b"\0" * 4096
    yield "only a header", FOUR
    yield "only an end", FOUR + b"."
    for protocol in (0, 1):
        yield f"protocol {protocol}", pickle.dumps({"w": [1, 2]}, protocol=protocol)
    for protocol in (0, 1, 5, 6, 255):
        yield f"said to be of protocol {protocol}", b"\x80" + bytes([protocol]) + b"}."
    yield "two headers", TWO + TWO + b"}."
    yield "parts left over", TWO + b"}}."
    yield "a mark left over", TWO + b"}(."
    yield "no mark", TWO + b"}u."
    yield "half an item", TWO + b"}(K\x01u."
    yield "a part that is not there", TWO + b"h\x00."
    yield "bytes after the end", pickle.dumps(genuine, protocol=4) + b"\0"
    yield "a file twice", pickle.dumps(genuine, protocol=4) * 2
    yield "gzip", gzip.compress(pickle.dumps(genuine, protocol=4))
    yield "hdf5", b"\x89HDF\r\n\x1a\n" + b"\0" * 500
    yield "torch", _torch_zip()
    stream = io.BytesIO()
    np.save(stream, genuine["w"])
    yield "npy", stream.getvalue()
    yield "safetensors", struct.pack("<Q", 2) + b"{}"
    yield "script", b"#!/bin/sh\n" + COMMAND + b"\n"


def _torch_zip():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", file_with(SYSTEM + RUN))
    return stream.getvalue()


def truncated(protocol):
    """Return a genuine file cut at each of its opcodes, and within each."""
    genuine = {"w": np.arange(6, dtype="float32").reshape(2, 3), "names": {"w": "linear_0.w_0"}}
    whole = pickle.dumps(genuine, protocol=protocol)
    for _, _, position in pickletools.genops(whole):
        yield whole[:position]
        yield whole[: position + 1] if position + 1 < len(whole) else whole[:-1]


HARMLESS = {"memo index"}
CASES = dict([*attacks(), *bombs(), *arrays(), *tables(), *broken()])
