"""Lets unmodified OpenRLHF 0.11.2 run on a machine without a GPU; Python imports it in every process of the lab.

Nothing heavy is imported here: each replacement is made right after the module that it concerns was executed.
The sixth shim is the package ``flash_attn`` beside this file.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import lab_imports
from lab_imports import after_import

# Part of the cache key of build_env.sh. Raise it when a change here makes the prepared assets useless.
SHIM_VERSION = 1

lab_imports.install()


class CpuDevice(str):
    """The current "CUDA device": the device ``cpu`` for torch, the index 0 inside ``f"cuda:{device}"``."""

    def __format__(self, spec: str) -> str:
        return "0"


@after_import("torch.cuda")
def _no_cuda_device(cuda: ModuleType) -> None:
    cuda.current_device = lambda: CpuDevice("cpu")
    # Four functions, not one four times: torch._dynamo keeps a table of rules by function.
    cuda.set_device = lambda device: None
    cuda.synchronize = lambda device=None: None
    cuda.empty_cache = lambda: None
    cuda.current_stream = lambda device=None: None


@after_import("torch.distributed.device_mesh")
def _mesh_of_cpus(module: ModuleType) -> None:
    original = module.init_device_mesh

    def init_device_mesh(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return original("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    module.init_device_mesh = init_device_mesh


class StoreCommunicator:
    """In place of vLLM's ``PyNcclCommunicator``: broadcasts over the TCP store of the group it is given."""

    def __init__(self, group: Any, device: object = None) -> None:
        self._group = group

    def broadcast(self, tensor: Any, src: int, stream: object = None) -> None:
        if self._group.rank == src:
            self._group.broadcast_obj(tensor.detach().contiguous(), src)
        else:
            tensor.copy_(self._group.broadcast_obj(None, src))


@after_import("vllm.distributed.device_communicators.pynccl")
def _broadcast_without_nccl(module: ModuleType) -> None:
    module.PyNcclCommunicator = StoreCommunicator


@after_import("openrlhf.trainer.ray.vllm_worker_wrap")
def _receive_weights_on_cpu(module: ModuleType) -> None:
    original = module.WorkerWrap.update_weight

    def update_weight(self: Any, *args: Any, **kwargs: Any) -> Any:
        from torch.overrides import TorchFunctionMode

        class CudaMeansCpu(TorchFunctionMode):
            def __torch_function__(
                self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
            ) -> Any:
                kwargs = dict(kwargs or {})
                if str(kwargs.get("device", "")).startswith("cuda"):
                    kwargs["device"] = "cpu"
                return function(*args, **kwargs)

        with CudaMeansCpu():
            return original(self, *args, **kwargs)

    module.WorkerWrap.update_weight = update_weight


@after_import("vllm.model_executor.layers.utils")
def _keep_plain_weights(module: ModuleType) -> None:
    # vLLM's CPU backend repacks linear weights at load and drops the originals; the weight sync of every PPO
    # step loads into the originals.
    def dispatch_cpu_unquantized_gemm(layer: Any, remove_weight: bool) -> None:
        import torch

        layer.cpu_linear = torch.nn.functional.linear

    module.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm


@after_import("transformers.modeling_utils")
def _packed_attention_on_cpu(module: ModuleType) -> None:
    # OpenRLHF packs samples only with an attention whose name has "flash_attention" in it. With SDPA's mask
    # transformers keeps the packed samples apart, by their positions.
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    name, attention, original = "flash_attention_cpu", module.AttentionInterface, module.lazy_import_flash_attention
    attention.register(name, attention._global_mapping["sdpa"])
    AttentionMaskInterface.register(name, sdpa_mask)

    def lazy_import_flash_attention(implementation: str | None, *args: Any, **kwargs: Any) -> Any:
        return None if implementation == name else original(implementation, *args, **kwargs)

    module.lazy_import_flash_attention = lazy_import_flash_attention


@after_import("openrlhf")
@after_import("vllm")
def _ports_that_stay_free(module: ModuleType) -> None:
    import lab_ports

    lab_ports.install()


if any(name.startswith("LAB_") for name in os.environ):
    import lab_faults

    lab_faults.install(os.environ)

if os.environ.get("LAB_DUMP"):
    import lab_dump  # noqa: F401

if os.environ.get("LAB_OVERHEAD"):
    import lab_overhead  # noqa: F401
