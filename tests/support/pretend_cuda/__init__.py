"""A pretended CUDA device: CPU tensors that say they are on a GPU, and are held to it.

Inside ``pretend_cuda()`` the numbers are the CPU's, and everything else is as on a GPU:

* ``device="cuda"`` makes tensors whose ``device`` is ``cuda:0``;
* operations on tensors of several devices, ``numpy()``, a generator of the wrong device
  and a device that does not exist raise what CUDA raises;
* an event that is recorded on another device than the copy it guards is a problem, and
  so is an operation whose result depends on the order in which a GPU's threads end;
* kernels, copies and waits of the host are counted by source line.

C++ takes the tensors for tensors of the CPU, since a PyTorch built with CUDA would else
ask the driver. So autocast has the lists of the CPU, and there are no compiled code,
graphs, profiler, races, rounding of cuBLAS, or speed.
"""

from pretend_cuda._log import Log
from pretend_cuda._runtime import pretend_cuda

__all__ = ["Log", "pretend_cuda"]
