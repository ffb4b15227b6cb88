"""Device and precision: what can be told without a card, and (`-m gpu`) what needs one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from models.decoding.legal import sid_logprobs
from models.devices import moved
from models.generator.config import GeneratorConfig
from models.generator.generator import Generator
from models.generator.losses import generation_loss
from models.training.checkpoint import Checkpointing
from models.training.compute import ComputeUnavailable, compile_layers, compute_of
from models.training.training_loop import Progress, TrainingConfig, train
from tests.models.generator.closeness import assert_close
from tests.models.generator.small_policy import small_config
from tests.models.training.small_run import CONFIG, INDEX, Cut, examples, trained

SHORT = replace(CONFIG, steps=6)
BF16 = replace(SHORT, precision="bf16")
PLAIN = replace(small_config(), dropout=0.0)  # dropout's draws are a device's own
# Every branch of a step: IGR, two experts of four, shared keys and values, gates.
EVERYTHING = replace(
    PLAIN,
    recent=2,
    retrieved=2,
    gated=True,
    experts=4,
    experts_per_token=2,
    kv_heads=2,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made(config: GeneratorConfig) -> Generator:
    torch.manual_seed(1)
    return Generator(config)


def losses(config: TrainingConfig, sizes: GeneratorConfig = EVERYTHING) -> list[float]:
    generator = made(sizes)
    told = train(generator, examples(), INDEX, config)
    assert {p.device.type for p in generator.parameters()} == {"cpu"}
    assert {p.dtype for p in generator.parameters()} == {torch.float32}
    return [step.loss for step in told]


class Factories(TorchFunctionMode):
    """Notes each call that makes a tensor without being told where."""

    MAKERS: Sequence[Callable[..., Any]] = (
        torch.arange,
        torch.empty,
        torch.full,
        torch.ones,
        torch.tensor,
        torch.zeros,
    )

    def __init__(self) -> None:
        super().__init__()
        self.placeless: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        # A single number may stand on the host: torch mixes it with a card's tensors.
        if func in self.MAKERS and found.dim() and "device" not in (kwargs or {}):
            self.placeless.append(func.__name__)
        return found


def test_a_step_makes_no_tensor_on_the_host_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would fail on a card at its first step."""
    factories = Factories()

    def watched(*args: Any, **kwargs: Any) -> Any:
        with factories:
            return generation_loss(*args, **kwargs)

    monkeypatch.setattr("models.training.training_loop.generation_loss", watched)
    losses(replace(SHORT, steps=3))
    assert factories.placeless == []


def test_everything_of_an_index_is_moved() -> None:
    found = moved(INDEX, torch.device("meta"))
    tensors = [found.keys_N, found.codes_NL, found.content_NC, found.in_stock_N, *found.counts]
    for level in found.levels:
        assert level.table is not None
        tensors += [level.codes, level.first_child, level.labels, level.steps_K, *level.table]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert found.depth == INDEX.depth


def test_bf16_takes_the_steps_of_float32() -> None:
    """Within bf16's 3 digits, and with other numbers: it was used."""
    exact, rough = losses(SHORT), losses(BF16)
    assert exact != rough
    assert_close(torch.tensor(rough), torch.tensor(exact), atol=0.05, rtol=0.01)


def test_logits_and_losses_are_float32_under_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def watched(*args: Any, **kwargs: Any) -> torch.Tensor:
        found = sid_logprobs(*args, **kwargs)
        seen.append(found.dtype)
        return found

    monkeypatch.setattr("models.generator.losses.sid_logprobs", watched)
    losses(replace(BF16, steps=2))
    assert seen == [torch.float32] * 2


def test_a_bf16_run_that_was_cut_ends_in_the_same_weights(tmp_path: Path) -> None:
    def progress(done: Progress) -> None:
        if done.step == 4:
            raise Cut(done.step)

    checkpointing = Checkpointing(path=tmp_path / "run.safetensors", every=2)
    whole, told = trained(BF16, dropout=0.2)
    with pytest.raises(Cut):
        trained(BF16, dropout=0.2, progress=progress, checkpointing=checkpointing)
    again, told_again = trained(BF16, dropout=0.2, checkpointing=checkpointing)
    assert told_again == told
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.slow  # 12 s, of which Dynamo has most
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # Dynamo looks at every input's
def test_compiled_layers_take_the_same_steps_under_the_same_names() -> None:
    """Dynamo's graphs without a code generator: widths, masks and prefixes change step by step."""
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        plain, compiled = made(PLAIN), made(PLAIN)
        compile_layers(compiled, backend="eager")
        told = [train(one, examples(), INDEX, SHORT) for one in (plain, compiled)]
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    found, wanted = ([step.loss for step in steps] for steps in told)
    assert_close(torch.tensor(found), torch.tensor(wanted), atol=1e-4)


@pytest.mark.parametrize(
    ("device", "compiled", "message"),
    [
        ("cuda", False, r"training.device: found 0 CUDA devices .*, wanted 1.*device = 'cpu'"),
        ("auto", True, "training.compile: found true on cpu, wanted false, or a CUDA device"),
        ("cpu", True, "training.compile: found true on cpu, wanted false, or a CUDA device"),
    ],
)
def test_what_a_machine_without_a_card_cannot_do_is_named(
    monkeypatch: pytest.MonkeyPatch, device: Any, compiled: bool, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ComputeUnavailable, match=message):
        compute_of(device, "float32", compiled=compiled)


def test_a_process_without_a_card_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(
        ComputeUnavailable, match=r"found 1 CUDA devices .*, wanted 2, one a process"
    ):
        compute_of("auto", "float32", compiled=False)


def test_auto_is_the_cpu_where_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert compute_of("auto", "bf16", compiled=False).device.type == "cpu"


@pytest.mark.gpu
def test_a_card_takes_the_steps_of_the_cpu() -> None:
    """AdamW turns rounding in small gradients into steps of its learning rate: it is a tenth of the
    other tests', which six steps on an H200 left 2e-3 apart.
    """
    gentle = replace(SHORT, learning_rate=1e-3)
    found = losses(replace(gentle, device="cuda"))
    assert_close(torch.tensor(found), torch.tensor(losses(gentle)), atol=1e-3, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # what the compiler says of itself fails no test of ours
@pytest.mark.timeout(600)  # it compiles for minutes
@pytest.mark.parametrize("compiled", [False, True])
def test_a_card_takes_them_in_bf16(compiled: bool) -> None:
    found = losses(replace(BF16, device="cuda", compile=compiled))
    assert_close(torch.tensor(found), torch.tensor(losses(SHORT)), atol=0.05, rtol=0.01)


@pytest.mark.gpu
def test_a_run_that_was_cut_goes_on_with_the_card_s_random_numbers(tmp_path: Path) -> None:
    """Close, not equal: a card adds up gradients of embeddings in any order."""

    def progress(done: Progress) -> None:
        if done.step == 4:
            raise Cut(done.step)

    config = replace(SHORT, device="cuda")
    checkpointing = Checkpointing(path=tmp_path / "run.safetensors", every=3)
    _, told = trained(config, dropout=0.2)
    with pytest.raises(Cut):
        trained(config, dropout=0.2, progress=progress, checkpointing=checkpointing)
    _, again = trained(config, dropout=0.2, checkpointing=checkpointing)
    found, wanted = (torch.tensor([step.loss for step in steps]) for steps in (again, told))
    assert_close(found, wanted, atol=1e-3, rtol=1e-3)
