"""Which names in a pickle are those of a checkpoint, which could run something, and which nobody knows."""

from __future__ import annotations

__all__ = ["FOREIGN", "KNOWN", "UNSAFE", "judge"]

KNOWN, FOREIGN, UNSAFE = "known", "foreign", "unsafe"

_KNOWN = {
    "collections": {"OrderedDict", "defaultdict", "Counter", "deque"},
    "builtins": {
        "set",
        "frozenset",
        "list",
        "dict",
        "tuple",
        "int",
        "float",
        "complex",
        "bool",
        "str",
        "bytes",
        "bytearray",
        "slice",
        "range",
        "object",
    },
    "torch._utils": {
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
        "_rebuild_tensor_v3",
        "_rebuild_parameter",
        "_rebuild_sparse_tensor",
        "_rebuild_parameter_with_state",
        "_rebuild_qtensor",
        "_rebuild_meta_tensor_no_storage",
        "_rebuild_device_tensor_from_numpy",
        "_rebuild_device_tensor_from_cpu_tensor",
        "_rebuild_wrapper_subclass",
        "_rebuild_nested_tensor",
    },
    "torch._tensor": {"_rebuild_from_type_v2", "Tensor"},
    "torch.nn.parameter": {"Parameter", "Buffer"},
    "torch.serialization": {"_get_layout"},
    "torch.storage": {"UntypedStorage", "TypedStorage"},
    "torch.nn.modules.module": {"_IncompatibleKeys"},
    "_codecs": {"encode"},
    "copyreg": {"_reconstructor"},
    "copy_reg": {"_reconstructor"},
    "argparse": {"Namespace"},
    "types": {"SimpleNamespace"},
    "datetime": {"datetime", "date", "timedelta", "timezone"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
    "numpy": {"ndarray", "dtype"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "transformers.trainer_utils": {"IntervalStrategy", "SchedulerType", "HubStrategy", "SaveStrategy"},
    "deepspeed.runtime.fp16.loss_scaler": {"LossScaler", "DynamicLossScaler"},
    "deepspeed.runtime.zero.config": {"ZeroStageEnum"},
    "deepspeed.utils.tensor_fragment": {"fragment_address", "tensor_fragment"},
    "deepspeed.utils.mixed_precision_linkage": {"fragment_address"},
    "deepspeed.runtime.config": {"DtypeEnum"},
    "deepspeed.runtime.config_utils": {"ScientificNotationEncoder"},
    "deepspeed.runtime.zero.offload_config": {"OffloadDeviceEnum"},
}
_TORCH = {
    "Size", "device", "strided", "sparse_coo", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float16", "bfloat16", "float32", "float64", "half", "float", "double", "uint8", "int8", "int16", "int32", "int64",
    "uint16", "uint32", "uint64", "bool", "complex64", "complex128", "qint8", "quint8", "qint32", "Tensor",
    "per_tensor_affine", "per_channel_affine", "contiguous_format", "preserve_format", "channels_last",
}  # fmt: skip
_UNSAFE = {
    "os", "posix", "nt", "posixpath", "ntpath", "sys", "subprocess", "_posixsubprocess", "shutil", "pty", "commands",
    "popen2", "socket", "_socket", "ssl", "asyncio", "http", "httplib", "urllib", "urllib2", "requests", "aiohttp",
    "ftplib", "smtplib", "imaplib", "poplib", "telnetlib", "webbrowser", "importlib", "_frozen_importlib", "imp",
    "pkgutil", "runpy", "zipimport", "code", "codeop", "codecs", "_codecs", "marshal", "pickle", "_pickle", "cPickle",
    "dill", "cloudpickle", "shelve", "joblib", "ctypes", "_ctypes", "cffi", "gc", "inspect", "types", "functools",
    "operator", "_operator", "itertools", "atexit", "signal", "threading", "_thread", "multiprocessing", "concurrent",
    "tempfile", "glob", "io", "_io", "fileinput", "linecache", "logging", "pdb", "bdb", "cProfile", "profile", "trace",
    "timeit", "doctest", "unittest", "pydoc", "venv", "ensurepip", "pip", "setuptools", "distutils", "idlelib",
    "lib2to3", "tkinter", "turtle", "platform", "getpass", "builtins", "__builtin__", "__builtins__", "sqlite3",
    "xmlrpc",
    "builtin", "nturl2path", "uuid", "site", "sitecustomize", "usercustomize", "test", "torch.hub",
    "torch.utils.cpp_extension", "torch.utils.collect_env", "torch._inductor", "torch.jit", "torch._dynamo", "torch.fx",
    "torch.package", "torch.utils.bottleneck", "torch.distributed", "torch.multiprocessing",
    "torch.utils._config_module", "numpy.testing", "numpy.f2py", "numpy.distutils",
}  # fmt: skip
"""Modules (with all below) of which a checkpoint needs nothing but what is in ``_KNOWN``."""
_UNSAFE_NAMES = {
    "eval", "exec", "execfile", "compile", "open", "getattr", "setattr", "delattr", "__import__", "globals", "locals",
    "vars", "input", "breakpoint", "system", "popen", "load", "loads", "run", "runstring", "runcode",
    "__getattribute__",
    "__globals__", "__builtins__", "__class__", "__subclasses__", "__reduce__", "__setstate__", "import_module",
    "attrgetter",
    "methodcaller", "call", "check_output", "check_call", "Popen",
}  # fmt: skip
"""Names that are no class of a training state, whatever the module."""


def judge(module: str, name: str) -> str:
    """``KNOWN``: torch, DeepSpeed and plain Python write it. ``UNSAFE``: its use can run or open something.
    ``FOREIGN``: all else."""
    if name in _KNOWN.get("builtins" if module == "__builtin__" else module, ()):
        return KNOWN
    if module == "torch" or module.startswith("torch.cuda"):
        if name in _TORCH or (name.endswith("Storage") and name.isidentifier()):
            return KNOWN
        if module == "torch":  # torch.load, torch.save, torch.compile, ...
            return UNSAFE if not name[:1].isupper() else FOREIGN
    parts = module.split(".")
    if any(".".join(parts[:count]) in _UNSAFE for count in range(1, len(parts) + 1)):
        return UNSAFE
    # A dotted name goes on through attributes: os of any module that imported it.
    if any(part in _UNSAFE_NAMES or (part in _UNSAFE and "." in name) for part in name.split(".")):
        return UNSAFE
    return FOREIGN
