"""The pretended CUDA device raises, counts and reports what a CUDA device would."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from pretend_cuda import pretend_cuda
from torch import nn

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="there is a CUDA device: nothing is pretended"
)


@pytest.fixture
def log():
    with pretend_cuda(n_devices=2) as log:
        yield log
    assert not torch.cuda.is_available()


def gpu(*shape, device="cuda"):
    return torch.rand(*shape).to(device)


WAYS = {
    "to": lambda: torch.ones(2).to("cuda"),
    "cuda": lambda: torch.ones(2).cuda(),
    "device=": lambda: torch.ones(2, device="cuda"),
    "tensor": lambda: torch.tensor([1.0, 1.0], device="cuda"),
    "as_tensor": lambda: torch.as_tensor(np.ones(2), device=torch.device("cuda")),
    "like": lambda: torch.ones_like(torch.zeros(2), device="cuda"),
    "number": lambda: torch.ones(2, device=0),
    "context": lambda: torch.ones(2, device=torch.device("cuda", 0)),
    "derived": lambda: (torch.zeros(2, device="cuda") + 1)[:2].clone(),
}


@pytest.mark.parametrize("way", WAYS)
def test_tensors_say_where_they_are(way, log):
    made = WAYS[way]()
    assert made.device == torch.device("cuda:0") != torch.device("cuda")
    assert made.is_cuda
    assert not made.is_cpu
    assert type(made) in (torch.Tensor, nn.Parameter)
    assert made.cpu().device == torch.device("cpu")
    assert made.cpu().tolist() == made.tolist() == [1.0, 1.0]


MIXTURES = {
    "addition": lambda: gpu(2) + torch.ones(2),
    "product": lambda: gpu(2, 2) @ torch.ones(2, 2),
    "rows of the CPU by numbers of the GPU": lambda: torch.ones(3)[gpu(2).long()],
    "index_select": lambda: gpu(3).index_select(0, torch.tensor([1])),
    "index_select into the CPU": lambda: torch.index_select(
        gpu(3), 0, gpu(2).long(), out=torch.empty(2)
    ),
    "two GPUs": lambda: gpu(2) + gpu(2, device="cuda:1"),
    "network": lambda: nn.Linear(2, 1).to("cuda")(torch.ones(1, 2)),
    "scalar of another GPU": lambda: gpu(2) @ gpu(2, device="cuda:1"),
}


@pytest.mark.parametrize("mixture", MIXTURES)
def test_tensors_of_several_devices(mixture, log):
    with pytest.raises(RuntimeError, match="to be on the same device, but found"):
        MIXTURES[mixture]()


def test_what_may_be_mixed(log):
    x = gpu(3)
    assert (x * torch.tensor(2.0)).device == x.device
    assert x[torch.tensor([0, 2])].device == x.device
    assert torch.where(x > 0, x, 0.0).device == x.device
    assert log.total("wait") == 2  # the copy of x, and of the row numbers


@pytest.mark.parametrize("convert", [np.asarray, torch.Tensor.numpy, np.array])
def test_no_numpy(convert, log):
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor"):
        convert(gpu(2))


@pytest.mark.parametrize("device", ["cuda:2", 7])
def test_a_device_that_does_not_exist(device, log):
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(1, device=device)
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.cuda.mem_get_info(device)


def test_generators_and_pinning(log):
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for gen"):
        torch.rand(2, device="cuda", generator=torch.Generator())
    torch.rand(2, device="cuda", generator=torch.Generator("cuda"))
    with pytest.raises(RuntimeError, match="cannot pin"):
        gpu(2).pin_memory()
    assert torch.empty(2, pin_memory=True).is_pinned()
    assert not torch.empty(2).is_pinned()
    assert not gpu(2).is_pinned()


def test_the_current_device(log):
    assert torch.zeros(1, device="cuda").device.index == 0
    with torch.cuda.device(1):
        assert torch.zeros(1, device="cuda").device.index == 1
        assert torch.cuda.current_stream().device.index == 1
    assert torch.cuda.current_device() == 0


WAITS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).all()),
    "mask": lambda x: x[x > 0.5],
    "nonzero": torch.nonzero,
    "to the CPU": lambda x: x.cpu(),
    "tolist": lambda x: x.tolist(),
    "from pageable memory": lambda x: torch.ones(2).to("cuda", non_blocking=True),
    "from the CPU": lambda x: torch.ones(2).pin_memory().to("cuda"),
    "a list": lambda x: torch.tensor([1.0], device="cuda"),
}


@pytest.mark.parametrize("what", WAITS)
def test_waits_are_counted(what, log):
    x = gpu(3)
    log.clear()
    WAITS[what](x)
    assert log.total("wait") == 1
    assert "test_pretend_cuda.py" in log.table("wait")


def test_what_does_not_wait(log):
    x = gpu(3, 3)
    log.clear()
    torch.ones(2).pin_memory().to("cuda", non_blocking=True)
    (x @ x).relu().sum(0).view(3, 1).expand(3, 2)
    torch.zeros(2, device="cuda")
    assert log.total("wait") == 0
    assert log.total("kernel") == 4
    assert {"mm", "relu", "sum"} < log.names("kernel")


def test_an_event_of_another_device(log):
    host = torch.empty(3, pin_memory=True)
    host.copy_(gpu(3, device="cuda:1"), non_blocking=True)
    torch.cuda.Event().record()
    assert len(log.problems) == 1
    assert "recorded on cuda:0 while 1 copies" in log.problems[0]
    log.clear()
    host.copy_(gpu(3, device="cuda:1"), non_blocking=True)
    torch.cuda.Event().record(torch.cuda.current_stream("cuda:1"))
    assert log.problems == []


def test_a_copy_that_is_read_too_early(log):
    gpu(3).to("cpu", non_blocking=True)
    assert "not pinned" in log.problems[0]


def many(n):
    return torch.tensor([1e-8, 1.0, -1.0, 3e-7], device="cuda").repeat(n)


def zeros(n):
    return torch.zeros(n, dtype=torch.int64, device="cuda")


ORDERS = {
    "index_add": lambda: torch.zeros(2, device="cuda").index_add_(0, zeros(8), many(2)),
    "scatter_add": lambda: torch.zeros(2, device="cuda").scatter_add(
        0, zeros(8), many(2)
    ),
    "accumulating index_put": lambda: torch.zeros(2, device="cuda").index_put_(
        (zeros(8),), many(2), accumulate=True
    ),
    "assignment twice": lambda: torch.zeros(2, device="cuda").index_put_(
        (zeros(4),), many(1)
    ),
    "scatter": lambda: torch.zeros(2, device="cuda").scatter_(0, zeros(4), many(1)),
    "cumsum": lambda: many(2).cumsum(0),
    "weighted bincount": lambda: torch.bincount(zeros(4), many(1)),
}


@pytest.mark.parametrize("name", ORDERS)
def test_results_that_depend_on_an_order(name, log):
    ORDERS[name]()
    assert len(log.problems) == 1
    assert "depends on the order in which threads end" in log.problems[0]


def test_results_that_do_not_depend_on_an_order(log):
    counts = torch.zeros(3, device="cuda")
    counts.index_add_(0, zeros(8), torch.ones(8, device="cuda"))
    counts[torch.arange(3, device="cuda")] = 1.0
    counts.scatter_(0, zeros(5), 2.0)
    torch.bincount(zeros(4))
    zeros(4).cumsum(0)
    zeros(3).scatter_reduce_(0, zeros(3), torch.arange(3, device="cuda"), "amax")
    assert log.problems == []


def test_gradients_and_networks(log):
    network, plain = (nn.Sequential(nn.Linear(3, 4), nn.ReLU()) for _ in range(2))
    plain.load_state_dict(network.state_dict())
    weight = network[0].weight
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network.to("cuda:1")
    assert network[0].weight is weight  # what the optimizer holds
    assert network[0].weight.device == torch.device("cuda:1")
    X = torch.rand(5, 3)
    (network(X.to("cuda:1")) ** 2).sum().backward()
    (plain(X) ** 2).sum().backward()
    optimizer.step()
    torch.testing.assert_close(weight.grad.cpu(), plain[0].weight.grad)
    assert weight.grad.device == weight.device
    twin = copy.deepcopy(network)
    assert twin[0].weight.device == weight.device
    state = network.to("cpu").state_dict()
    assert {value.device.type for value in state.values()} == {"cpu"}


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_types_without_gradients(context, log):
    with context():
        x = torch.zeros(2, dtype=torch.int64, device="cuda")
        assert x.to(torch.float32).dtype == torch.float32
        assert x.T.float().cpu().dtype == torch.float32
        assert x.to(torch.zeros(1, device="cuda")).dtype == torch.float32
        assert torch.nn.functional.one_hot(x, 3).T.to(torch.half).is_cuda


def test_tied_parameters_stay_tied(log):
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    network.to("cuda")
    assert network[1].weight is network[0].weight
    assert network[1].weight.is_cuda


def test_gradients_through_moves(log):
    x = torch.ones(2, requires_grad=True)
    (x.to("cuda").to("cuda:1") * 3).sum().cpu().backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_pickles_keep_the_device(log):
    twin = pickle.loads(pickle.dumps(gpu(2, device="cuda:1")))
    assert twin.device == torch.device("cuda:1")


def test_threads_pretend_too(log):
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(lambda: torch.zeros(1, device="cuda")).result()
    assert made.is_cuda


@pytest.mark.parametrize(("capability", "supported"), [((7, 5), False), ((9, 0), True)])
def test_bfloat16(capability, supported):
    with pretend_cuda(capability=capability):
        assert torch.cuda.get_device_capability() == capability
        assert torch.cuda.is_bf16_supported()
        assert torch.cuda.is_bf16_supported(including_emulation=False) == supported


def test_memory():
    with pretend_cuda(free_bytes=1 << 20):
        assert torch.cuda.mem_get_info()[0] == 1 << 20


def test_nothing_is_left_afterwards():
    with pretend_cuda():
        kept = gpu(2)
    assert not torch.cuda.is_available()
    assert torch.ones(2).is_cpu
    assert kept.device.type == "cuda"
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(2).to("cuda")
